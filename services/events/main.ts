import { runMain } from '../runtime/lifecycle.ts';
import { compose } from './compose.ts';
import { readConfig } from './config.ts';

await runMain('events', () => compose(readConfig(process.env)));
