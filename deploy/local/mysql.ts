import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { Failure } from './failure.ts';
import { answersQuery } from './mariadb.ts';
import { type MySqlProgram, mySqlProgram } from './mysql-programs.ts';
import { type ManagedProcess, spawnLogged, waitUntilReady } from './process.ts';

const run = promisify(execFile);

const readyTimeoutMs = 120_000;
const initialiseTimeoutMs = 120_000;
const mebibyte = 1024 * 1024;

export type MySqlOptions = {
  /** Data directory, socket and log live here; a start on the same folder continues with what was there. */
  dir: string;
  port: number;
  /** More of the server's own arguments, for example ['--sql-mode=ANSI']. */
  args?: readonly string[];
  /** Default 128 MiB. */
  bufferPoolBytes?: number;
  /** Stops the start: what was begun is stopped and a Failure thrown. */
  signal?: AbortSignal | undefined;
};

export type MySqlServer = ManagedProcess & {
  /** Without a database: mysql://root@127.0.0.1:port. root has no password and is reachable on loopback only. */
  readonly url: string;
  readonly port: number;
};

/**
 * Starts MySQL on loopback, with its own defaults (a binary log, no limit of ours); resolves when it answers a query. Fetches it
 * first where need be; `whyNoMySql` tells whether that is possible.
 */
export async function startMySql(options: MySqlOptions): Promise<MySqlServer> {
  const { port, signal } = options;
  const dir = resolve(options.dir);
  const program = await mySqlProgram(undefined, signal);
  mkdirSync(dir, { recursive: true });
  await initialise(program, dir);
  const child = await spawnLogged({
    name: 'mysql',
    command: program.command,
    args: [
      ...serverArguments(program, join(dir, 'data')),
      // A socket's path may be about 100 bytes long; relative to the data directory it is short.
      ...[`--port=${port}`, '--bind-address=127.0.0.1', '--socket=server.sock'],
      ...[
        '--pid-file=server.pid',
        `--tmpdir=${dir}`,
        '--skip-name-resolve',
        '--mysqlx=OFF',
        '--secure-file-priv=NULL',
      ],
      ...['--performance-schema=OFF', '--max-connections=400'],
      `--innodb-buffer-pool-size=${options.bufferPoolBytes ?? 128 * mebibyte}`,
      ...(options.args ?? []),
    ],
    logFile: join(dir, 'mysql.log'),
    recordDir: dir,
    signal,
    stopGraceMs: 30_000,
  });
  const probe = (): Promise<boolean> => answersQuery(port);
  await waitUntilReady({ child, probe, timeoutMs: readyTimeoutMs, signal });
  return { ...child, url: `mysql://root@127.0.0.1:${port}`, port };
}

function serverArguments({ args }: MySqlProgram, dataDir: string): string[] {
  // The server refuses to run as root unless told so.
  const asRoot = process.getuid?.() === 0 ? ['--user=root'] : [];
  const defaults = args.includes('--no-defaults') ? [] : ['--no-defaults'];
  return [...args, ...defaults, ...asRoot, `--datadir=${dataDir}`];
}

/** Fills an absent data directory; an interrupted attempt leaves only a folder that the next one removes. */
async function initialise(program: MySqlProgram, dir: string): Promise<void> {
  const data = join(dir, 'data');
  if (existsSync(data)) return;
  const partial = join(dir, 'data.partial');
  rmSync(partial, { recursive: true, force: true });
  const users = join(dir, 'initialise.sql');
  // MySQL makes root@localhost only, which a TCP connection is not when names are not resolved.
  writeFileSync(
    users,
    "CREATE USER 'root'@'127.0.0.1';\nGRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n",
  );
  const logFile = join(dir, 'initialise.log');
  const args = [
    ...serverArguments(program, partial),
    '--initialize-insecure',
    `--init-file=${users}`,
  ];
  try {
    const { stdout, stderr } = await run(program.command, args, { timeout: initialiseTimeoutMs });
    writeFileSync(logFile, stdout + stderr);
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    writeFileSync(logFile, stdout + stderr);
    throw new Failure(
      `MySQL's data directory could not be made. The log: ${logFile}`,
      (stdout + stderr).trim().split('\n').slice(-12),
      error,
    );
  }
  renameSync(partial, data);
}
