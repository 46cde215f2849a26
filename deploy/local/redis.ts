import { mkdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { type ManagedProcess, spawnLogged, waitUntilReady } from './process.ts';
import { requireProgram } from './programs.ts';

const readyTimeoutMs = 60_000;
const probeTimeoutMs = 1_000;

export type RedisOptions = {
  /** Append-only file and log live here; a start on the same folder continues with what was there. */
  dir: string;
  port: number;
  /** Stops the start: what was begun is stopped and a Failure thrown. */
  signal?: AbortSignal | undefined;
  /** Where the pid is recorded for a clean-up after kill -9; default: `dir`. */
  recordDir?: string;
  /** Default: redis.log in `dir`. */
  logFile?: string;
  /** More of redis-server's own arguments, for example ['--appendfsync', 'always']. */
  args?: readonly string[];
  /** The server's whole environment; default: ours. */
  env?: NodeJS.ProcessEnv;
};

export type RedisServer = ManagedProcess & { readonly url: string; readonly port: number };

/** Starts redis-server on loopback with an append-only file and no eviction; resolves when it answers PING. */
export async function startRedis(options: RedisOptions): Promise<RedisServer> {
  const { dir, port, recordDir = dir } = options;
  const command = requireProgram('redis-server');
  mkdirSync(dir, { recursive: true });
  const child = await spawnLogged({
    name: 'redis',
    command,
    args: [
      ...['--port', String(port), '--bind', '127.0.0.1', '--dir', dir],
      ...['--appendonly', 'yes', '--save', '', '--maxmemory-policy', 'noeviction'],
      // A title of its own would hide the command line by which a later start recognises this server.
      ...['--set-proc-title', 'no', '--daemonize', 'no', '--logfile', ''],
      ...(options.args ?? []),
    ],
    logFile: options.logFile ?? join(dir, 'redis.log'),
    recordDir,
    signal: options.signal,
    ...(options.env && { env: options.env }),
  });
  await waitUntilReady({
    child,
    probe: () => answersPing(port),
    timeoutMs: readyTimeoutMs,
    signal: options.signal,
  });
  return { ...child, url: `redis://127.0.0.1:${port}`, port };
}

/** A server that still loads its file accepts connections and answers -LOADING: only +PONG counts. */
function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    const finish = (answered: boolean): void => {
      socket.destroy();
      resolve(answered);
    };
    socket.setTimeout(probeTimeoutMs, () => finish(false));
    socket.once('error', () => finish(false));
    socket.once('connect', () => socket.write('PING\r\n'));
    socket.once('data', (reply) => finish(reply.toString('latin1').startsWith('+PONG')));
  });
}
