import { existsSync, globSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Failure, printFailure } from './failure.ts';
import { handleInterrupts } from './interrupt.ts';
import { compileCacheDir, repositoryDir } from './places.ts';
import { runTestFiles } from './run-test-files.ts';
import { stopStrays } from './strays.ts';
import { createSupervisor } from './supervisor.ts';
import { createTerminal } from './terminal.ts';
import { summaryLine, type Tally } from './test-report.ts';
import { createThrowAwayDir, runVariable, startThrowAwayServers } from './throw-away.ts';

const help = `npm test [-- file or folder …]   runs the tests, all of test/**/*.test.ts or those named

Brings up its own Redis, MariaDB and Kafka on free ports, also beside a running npm start, and removes them afterwards.
The last line is "N passed, N failed[, N skipped]"; the exit code is 0 only if something passed and nothing failed.
`;

const mebibyte = 1024 * 1024;
const testMariaDb = { bufferPoolBytes: 256 * mebibyte, logFileBytes: 128 * mebibyte };

/** Runs everything and removes it again; answers the exit code. The last line of output is the count, whatever happens. */
async function main(args: readonly string[]): Promise<number> {
  const total: Tally = { passed: 0, failed: 0, skipped: 0 };
  const terminal = createTerminal();
  const supervisor = createSupervisor();
  const ended = new AbortController();
  let wasInterrupted = false;
  const noMoreInterrupts = handleInterrupts({
    onFirst: (signal) => {
      terminal.say(`\n${signal}: stopping the tests and their servers.`);
      wasInterrupted = true;
      ended.abort();
      void supervisor.stop(() => {});
    },
    onAgain: () => {
      supervisor.killAll();
      process.exit(130);
    },
  });
  const failWith = (error: unknown): void => {
    if (wasInterrupted) return;
    printFailure(error);
    total.failed += 1;
    ended.abort();
  };
  // A server that dies would make every test after it fail: the run ends.
  supervisor.failed.catch(failWith);
  const dir = await createThrowAwayDir('test');
  try {
    const files = namedTestFiles(args);
    await bringUpFor(dir.path, { terminal, supervisor });
    await runTestFiles({
      files,
      total,
      write: (text) => terminal.write(text),
      signal: ended.signal,
    });
    const strays = await stopStrays(runVariable, dir.path);
    for (const { pid, commandLine } of strays) {
      failWith(new Failure(`A test left a process running (pid ${pid}): ${commandLine}`));
    }
  } catch (error) {
    failWith(error);
  } finally {
    await supervisor.stop(() => {});
    await stopStrays(runVariable, dir.path, 0);
    dir.remove();
    noMoreInterrupts();
  }
  terminal.say(`\n${summaryLine(total)}`);
  if (wasInterrupted) return 130;
  return total.failed === 0 && total.passed > 0 ? 0 : 1;
}

/** Starts the servers and names them, and the folder for temporary files, in the environment that the tests get. */
async function bringUpFor(
  dir: string,
  options: Omit<Parameters<typeof startThrowAwayServers>[0], 'dir'>,
): Promise<void> {
  const addresses = await startThrowAwayServers({ dir, mariadb: testMariaDb, ...options });
  Object.assign(process.env, {
    SLUICE_TEST_MYSQL_URL: addresses.mysqlUrls,
    SLUICE_TEST_REDIS_URL: addresses.redisUrl,
    SLUICE_TEST_KAFKA_BROKERS: addresses.kafkaBrokers,
    TMPDIR: join(dir, 'tmp'),
    NODE_COMPILE_CACHE: compileCacheDir,
    [runVariable]: dir,
  });
}

/** Full paths of the named files, those in named folders, or all. */
function namedTestFiles(named: readonly string[]): string[] {
  const paths = named.length === 0 ? ['test'] : named;
  const files = paths.flatMap((path) => {
    const full = resolve(path);
    if (!existsSync(full)) throw new Failure(`There is no test file or folder ${path}.`);
    if (statSync(full).isFile()) return [full];
    return globSync('**/*.test.ts', { cwd: full })
      .sort()
      .map((file) => join(full, file));
  });
  if (files.length === 0) throw new Failure('There is no test file (*.test.ts) there.');
  return files;
}

const args = process.argv.slice(2);
if (args.includes('--help') || args.includes('-h')) {
  process.stdout.write(help);
} else {
  process.chdir(repositoryDir);
  process.exit(await main(args));
}
