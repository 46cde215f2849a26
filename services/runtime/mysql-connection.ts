import type { Socket } from 'node:net';
import { createConnection, type Connection as DriverConnection } from 'mysql2';
import type { PoolConnection } from 'mysql2/promise';
import {
  kindOfVersion,
  type Queryable,
  type ServerSession,
  setUpSession,
} from './mysql-session.ts';
import { idleSecondsMax, type SessionNeeds } from './mysql-settings.ts';

/** Until the server has greeted us and taken the password. */
const connectMsMax = 3_000;
/** Answers are waited for in ticks; one that comes late counts for no more than its length. */
const tickMs = 50;
/** The same and the session's setting up, which takes three round trips. */
const openMsMax = 5_000;

/** Where a server is and who we are there. */
export interface ServerAddress {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string | undefined;
}

/** The server and the user of a URL such as mysql://root:secret@127.0.0.1:3306. */
export function addressOf(url: string, database?: string): ServerAddress {
  const { hostname, port, username, password } = new URL(url);
  return {
    host: hostname,
    port: Number(port || 3306),
    user: decodeURIComponent(username || 'root'),
    password: decodeURIComponent(password),
    database,
  };
}

/** An open connection whose session is set up. */
export interface OpenConnection {
  readonly driver: DriverConnection;
  readonly connection: PoolConnection;
  readonly session: ServerSession;
}

/** The driver keeps its socket to itself. */
const socketOf = (driver: DriverConnection): Socket =>
  (driver as unknown as { stream: Socket }).stream;

/**
 * Opens a connection and sets its session up.
 *
 * @param signal gives the attempt up
 * @throws ServerUnfit, or the network's or the server's error; the connection is destroyed then
 */
export async function openConnection(
  address: ServerAddress,
  options: { readonly multipleStatements: boolean; readonly needs: SessionNeeds },
  signal?: AbortSignal,
): Promise<OpenConnection> {
  const { multipleStatements, needs } = options;
  const driver = dial(address, multipleStatements);
  const server = `${address.host}:${address.port}`;
  const opening = (async (): Promise<OpenConnection> => {
    const kind = kindOfVersion(await greeting(driver));
    const connection = driver.promise() as unknown as PoolConnection;
    const session = await setUpSession(connection as Queryable, kind, needs, server);
    return { driver, connection, session: { ...session, multipleStatements } };
  })();
  return await orDestroy(driver, within(opening, openMsMax, signal));
}

/** Opens a connection whose session is as the server makes it, for one errand. @throws as `openConnection` */
export async function openPlainConnection(
  address: ServerAddress,
  signal: AbortSignal,
): Promise<DriverConnection> {
  const driver = dial({ ...address, database: undefined }, false);
  await orDestroy(driver, within(greeting(driver), connectMsMax, signal));
  return driver;
}

function dial(
  { database, ...server }: ServerAddress,
  multipleStatements: boolean,
): DriverConnection {
  const driver = createConnection({
    ...server,
    ...(database === undefined ? {} : { database }),
    // Ours bounds the session's setting up too, and knows when this process stood still.
    connectTimeout: 0,
    enableKeepAlive: true,
    keepAliveInitialDelay: 10_000,
    maxPreparedStatements: 256,
    supportBigNumbers: true,
    bigNumberStrings: true,
    decimalNumbers: false,
    trace: false,
    multipleStatements,
    timezone: 'Z',
    flags: ['-FOUND_ROWS'],
  });
  // A statement under way is told by itself, and what breaks between two ends the connection.
  driver.on('error', () => undefined);
  return driver;
}

/** The version that the server presents itself with, once it has let us in. */
function greeting(driver: DriverConnection): Promise<string> {
  return new Promise((resolve, reject) => {
    driver.once('error', reject);
    driver.once('connect', ({ serverVersion }: { serverVersion: string }) => {
      driver.off('error', reject);
      resolve(serverVersion);
    });
  });
}

async function orDestroy<Result>(driver: DriverConnection, work: Promise<Result>): Promise<Result> {
  try {
    return await work;
  } catch (error) {
    destroy(driver);
    throw error;
  }
}

/** Says good-bye behind whatever runs; resolves when the connection is closed, by force when the time is over. */
export async function quit(driver: DriverConnection, msMax: number): Promise<void> {
  const socket = socketOf(driver);
  if (socket.destroyed) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => destroy(driver), msMax);
    socket.once('close', () => {
      clearTimeout(timer);
      resolve();
    });
    driver.end(() => undefined);
  });
}

/** The driver's own `destroy` only says good-bye, and a statement under way goes on waiting. */
export function destroy(driver: DriverConnection): void {
  driver.destroy();
  socketOf(driver).destroy();
}

/**
 * Whether the server answers within some milliseconds. A session that was to end soon, for the sake
 * of its transactions, may rest for long afterwards.
 */
export async function rests({ driver, session }: OpenConnection, ms: number): Promise<boolean> {
  const answered = new Promise<void>((resolve, reject) => {
    const answer = (error: unknown): void => (error ? reject(error) : resolve());
    if (session.endsSoon) driver.query(`SET SESSION wait_timeout = ${idleSecondsMax}`, answer);
    else driver.ping(answer);
  });
  try {
    await within(answered, ms);
    session.endsSoon = false;
    return true;
  } catch {
    return false;
  }
}

/**
 * Waits for an answer. Time in which this process stood still does not count: the answer may have been there all the while.
 *
 * @throws Error ETIMEDOUT if `work` takes longer; what it throws later is nobody's concern
 */
async function within<Result>(
  work: Promise<Result>,
  ms: number,
  signal?: AbortSignal,
): Promise<Result> {
  work.catch(() => undefined);
  const over = new AbortController();
  const late = new Promise<never>((_, reject) => {
    const giveUp = (): void => {
      const error = new Error('the server did not answer in time');
      reject(Object.assign(error, { code: 'ETIMEDOUT' }));
    };
    let leftMs = ms;
    const ticks = setInterval(() => {
      leftMs -= tickMs;
      if (leftMs <= 0) giveUp();
    }, tickMs);
    over.signal.addEventListener('abort', () => clearInterval(ticks), { once: true });
    signal?.addEventListener('abort', giveUp, { once: true, signal: over.signal });
    if (signal?.aborted) giveUp();
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    over.abort();
  }
}
