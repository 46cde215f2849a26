import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { createConnection } from 'mysql2/promise';
import { Failure } from './failure.ts';
import { type ManagedProcess, spawnLogged, waitUntilReady } from './process.ts';
import { findProgram, requireProgram } from './programs.ts';

const run = promisify(execFile);

/** Crash recovery reads at most the redo log, which takes seconds; the first start initialises. */
const readyTimeoutMs = 120_000;
const initialiseTimeoutMs = 120_000;
const probeTimeoutMs = 1_000;
const mebibyte = 1024 * 1024;

export type MariaDbOptions = {
  /** Data directory, socket and log live here; a start on the same folder continues with what was there. */
  dir: string;
  port: number;
  /** Default 512 MiB; tests take less. */
  bufferPoolBytes?: number;
  /** Redo log, default 512 MiB; tests take less. A change is applied at the next start. */
  logFileBytes?: number;
  /** Stops the start: what was begun is stopped and a Failure thrown. */
  signal?: AbortSignal | undefined;
  /** Where the pid is recorded for a clean-up after kill -9; default: `dir`. */
  recordDir?: string;
  /** Default: mariadb.log in `dir`. */
  logFile?: string;
  /** More of the server's own arguments, for example ['--innodb-flush-log-at-trx-commit=0']. */
  args?: readonly string[];
  /** The server's whole environment; default: ours. */
  env?: NodeJS.ProcessEnv;
};

export type MariaDbServer = ManagedProcess & {
  /** Without a database: mysql://root@127.0.0.1:port. root has no password and is reachable on loopback only. */
  readonly url: string;
  readonly port: number;
};

/** Starts MariaDB 10.11+ (or MySQL 8+, if that is what the machine has) on loopback; resolves when it answers a query. */
export async function startMariaDb(options: MariaDbOptions): Promise<MariaDbServer> {
  const { port } = options;
  const dir = resolve(options.dir);
  const server = databaseServer();
  mkdirSync(dir, { recursive: true });
  await initialise(server, dir);
  const child = await spawnLogged({
    name: 'mariadb',
    command: server.command,
    args: serverArguments(server, dir, options),
    logFile: options.logFile ?? join(dir, 'mariadb.log'),
    recordDir: options.recordDir ?? dir,
    signal: options.signal,
    ...(options.env && { env: options.env }),
    // A clean shutdown flushes the buffer pool.
    stopGraceMs: 30_000,
  });
  await waitUntilReady({
    child,
    probe: () => answersQuery(port),
    timeoutMs: readyTimeoutMs,
    signal: options.signal,
  });
  return { ...child, url: `mysql://root@127.0.0.1:${port}`, port };
}

type DatabaseServer = { command: string; isMySql: boolean };

function databaseServer(): DatabaseServer {
  const mariadbd = findProgram('mariadbd');
  if (mariadbd !== undefined) return { command: mariadbd, isMySql: false };
  const command = requireProgram('mysqld');
  // Older MariaDB packages call their server mysqld too; only MariaDB brings this script.
  return { command, isMySql: installScript() === undefined };
}

function installScript(): string | undefined {
  return findProgram('mariadb-install-db') ?? findProgram('mysql_install_db');
}

function serverArguments(server: DatabaseServer, dir: string, options: MariaDbOptions): string[] {
  const bufferPoolBytes = options.bufferPoolBytes ?? 512 * mebibyte;
  const logFileBytes = options.logFileBytes ?? 512 * mebibyte;
  return [
    '--no-defaults',
    `--datadir=${dataDir(dir)}`,
    // A server that starts removes the temporary tables that it finds, also those of others.
    `--tmpdir=${dir}`,
    // Relative to the data directory, because the length of a socket's path is limited to about 100 bytes.
    '--socket=server.sock',
    '--pid-file=server.pid',
    `--port=${options.port}`,
    '--bind-address=127.0.0.1',
    '--skip-name-resolve',
    '--performance-schema=OFF',
    '--max-connections=400',
    '--character-set-server=utf8mb4',
    '--transaction-isolation=READ-COMMITTED',
    // What was answered "created" is on the disk.
    '--innodb-flush-log-at-trx-commit=1',
    '--innodb-lock-wait-timeout=1',
    `--innodb-buffer-pool-size=${bufferPoolBytes}`,
    ...(server.isMySql
      ? ['--mysqlx=OFF', '--skip-log-bin', `--innodb-redo-log-capacity=${logFileBytes}`]
      : [`--innodb-log-file-size=${logFileBytes}`]),
    // The server refuses to run as root unless told so.
    ...(process.getuid?.() === 0 ? ['--user=root'] : []),
    ...(options.args ?? []),
  ];
}

/** Fills an absent data directory; an interrupted attempt leaves only a folder that the next one removes. */
async function initialise(server: DatabaseServer, dir: string): Promise<void> {
  const data = dataDir(dir);
  if (existsSync(data)) return;
  const partial = join(dir, 'data.partial');
  rmSync(partial, { recursive: true, force: true });
  const asRoot = process.getuid?.() === 0 ? ['--user=root'] : [];
  const [command, args] = server.isMySql
    ? [
        server.command,
        ['--no-defaults', '--initialize-insecure', ...mySqlRootFile(dir), `--datadir=${partial}`],
      ]
    : [
        installScript() ?? requireProgram('mariadb-install-db'),
        [
          ...['--no-defaults', '--auth-root-authentication-method=normal', '--skip-test-db'],
          ...['--skip-name-resolve', `--datadir=${partial}`, `--tmpdir=${dir}`],
        ],
      ];
  try {
    const { stdout, stderr } = await run(command, [...args, ...asRoot], {
      timeout: initialiseTimeoutMs,
    });
    writeFileSync(join(dir, 'initialise.log'), stdout + stderr);
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    const logFile = join(dir, 'initialise.log');
    writeFileSync(logFile, stdout + stderr);
    throw new Failure(
      `The database's data directory could not be made. The log: ${logFile}`,
      (stdout + stderr).trim().split('\n').slice(-12),
      error,
    );
  }
  renameSync(partial, data);
}

/** MySQL makes root@localhost only, which a TCP connection is not when names are not resolved. MariaDB makes both. */
function mySqlRootFile(dir: string): string[] {
  const file = join(dir, 'initialise.sql');
  writeFileSync(
    file,
    "CREATE USER IF NOT EXISTS 'root'@'127.0.0.1';\nGRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n",
  );
  return [`--init-file=${file}`];
}

function dataDir(dir: string): string {
  return join(dir, 'data');
}

/** Whether a server answers root there. */
export async function answersQuery(port: number): Promise<boolean> {
  const connection = await createConnection({
    host: '127.0.0.1',
    port,
    user: 'root',
    connectTimeout: probeTimeoutMs,
  });
  try {
    await connection.query({ sql: 'SELECT 1', timeout: probeTimeoutMs });
    return true;
  } finally {
    connection.destroy();
  }
}
