import { runMain } from '../runtime/lifecycle.ts';
import { compose } from './compose.ts';
import { readConfig } from './config.ts';

await runMain('payment', () => compose(readConfig(process.env)));
