import { runCommandLine } from './command-line.ts';

process.exitCode = await runCommandLine(process.argv.slice(2), {
  variables: process.env,
  stdout: process.stdout,
  stderr: process.stderr,
});
