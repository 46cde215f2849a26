import { parseArgs } from 'node:util';
import { startMailCatcher } from './mail-catcher.ts';

const help = `mail-catcher-main.ts --port <port> --dir <folder>   keeps each mail as a file, delivers none\n`;

/** Runs the mail catcher as a program of its own until SIGINT or SIGTERM. */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { port: { type: 'string' }, dir: { type: 'string' }, help: { type: 'boolean' } },
  });
  const port = Number(values.port ?? Number.NaN);
  if (values.help || !Number.isInteger(port) || port < 0 || port > 65_535 || !values.dir) {
    (values.help ? process.stdout : process.stderr).write(help);
    process.exitCode = values.help ? 0 : 1;
    return;
  }
  const catcher = await startMailCatcher({
    port,
    dir: values.dir,
    onMail: ({ file }) => void process.stdout.write(`${file}\n`),
  });
  process.stdout.write(`mail catcher: ${catcher.url}, mails go to ${values.dir}\n`);
  const stop = (): void => void catcher.stop().then(() => process.exit(0));
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
}

await main();
