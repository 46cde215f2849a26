import type { Pool as DriverPool, PoolConnection } from 'mysql2/promise';
import type { Deadline } from './deadline.ts';
import {
  destroy,
  type OpenConnection,
  openConnection,
  quit,
  rests,
  type ServerAddress,
} from './mysql-connection.ts';
import { DatabaseLost, DatabaseSlow, isConnectionUseless, textOf } from './mysql-errors.ts';
import { createStatementKiller, type StatementKiller } from './mysql-killer.ts';
import type { ServerSession } from './mysql-session.ts';
import type { SessionNeeds } from './mysql-settings.ts';
import { Refusal } from './refusals.ts';

/** A connection that rested longer may be dead without a sign: the server is asked before it is lent. */
const restMsMax = 5_000;
const checkEveryMs = 1_000;
/** A server that is there answers a ping within this, however busy it is. */
const answerMsMax = 1_000;
/** Callers without a deadline: tests and the command line. */
const patientMs = 60_000;
/** A new connection takes some milliseconds; after this long the server counts as not reached. */
const openSlowMs = 1_000;
/** A server may take so long to close an idle connection that says good-bye. */
const quitMsMax = 1_000;
/** What is lent when the pool ends may finish its statement. */
const endMsMax = 3_000;

/** Connections to one database of one server. */
export interface Pool {
  /** One statement without a deadline of its own. @throws the server's or the network's error */
  readonly query: DriverPool['query'];
  /** Lends a connection, to be given back by its `release` or `destroy`. @throws as `query` */
  getConnection(): Promise<PoolConnection>;
  /**
   * The same by a deadline.
   *
   * @throws Refusal OVERLOADED if all connections are in use, DEPENDENCY_DOWN if there is none to be had
   */
  lend(deadline: Deadline): Promise<PoolConnection>;
  /** Ends the statement that a lent connection runs, on the server, and destroys the connection. */
  kill(connection: PoolConnection): void;
  /** Closes all connections, those that are lent as soon as their statement has ended. */
  end(): Promise<void>;
}

export interface PoolSettings {
  readonly address: ServerAddress;
  readonly connectionsMax: number;
  readonly multipleStatements: boolean;
  readonly needs: SessionNeeds;
}

interface Pooled extends OpenConnection {
  state: 'idle' | 'lent' | 'checked' | 'gone';
  /** When the server was last known to answer, on the monotonic clock. */
  answeredAtMs: number;
}

interface Waiter {
  take(pooled: Pooled): void;
  fail(error: unknown): void;
}

const sessions = new WeakMap<object, ServerSession>();

/** What is known of the session behind a lent connection. */
export function sessionOf(connection: PoolConnection): ServerSession {
  return sessions.get(connection) as ServerSession;
}

export function createConnectionPool(settings: PoolSettings): Pool {
  return new ConnectionPool(settings);
}

class ConnectionPool implements Pool {
  readonly #settings: PoolSettings;
  readonly #killer: StatementKiller;
  readonly #ended = new AbortController();
  readonly #all = new Set<Pooled>();
  /** The one that was used last is lent first. */
  readonly #idle: Pooled[] = [];
  readonly #waiters: Waiter[] = [];
  /** Connections being opened, by when that began. */
  readonly #opening = new Map<Promise<void>, number>();
  #checks: NodeJS.Timeout | undefined;

  constructor(settings: PoolSettings) {
    this.#settings = settings;
    this.#killer = createStatementKiller(settings.address);
  }

  readonly query: DriverPool['query'] = async (...args: unknown[]) => {
    const connection = await this.getConnection();
    try {
      const result = await connection.query(...(args as [string]));
      connection.release();
      return result as never;
    } catch (error) {
      if (isConnectionUseless(error)) connection.destroy();
      else connection.release();
      throw error;
    }
  };

  async getConnection(): Promise<PoolConnection> {
    try {
      return await this.#take(patientMs);
    } catch (error) {
      throw error instanceof DatabaseLost && error.cause !== undefined ? error.cause : error;
    }
  }

  async lend(deadline: Deadline): Promise<PoolConnection> {
    try {
      return await this.#take(deadline.leftMs());
    } catch (cause) {
      if (cause instanceof Refusal) throw cause;
      throw new Refusal('DEPENDENCY_DOWN', (cause as Error).message, { cause });
    }
  }

  kill(connection: PoolConnection): void {
    const { lockName } = sessionOf(connection);
    connection.destroy();
    if (lockName !== undefined) this.#killer.kill(lockName);
  }

  async end(): Promise<void> {
    this.#ended.abort();
    clearInterval(this.#checks);
    for (const waiter of this.#waiters.splice(0)) waiter.fail(new Error('The pool is closed'));
    const closed = [...this.#all].map(({ driver, state }) =>
      quit(driver, state === 'lent' ? endMsMax : quitMsMax),
    );
    await Promise.all([...closed, ...this.#opening.keys(), this.#killer.stop()]);
    for (const pooled of this.#all) this.#remove(pooled);
  }

  /** @throws Refusal OVERLOADED, DatabaseLost, or DatabaseSlow */
  async #take(waitMs: number): Promise<PoolConnection> {
    if (this.#ended.signal.aborted) throw new DatabaseLost('The pool is closed');
    if (waitMs <= 0) throw new Refusal('OVERLOADED', 'No time was left for the database');
    for (;;) {
      const idle = this.#idle.at(-1);
      if (idle === undefined) break;
      // Nobody has looked for so long only if this process stood still.
      if (performance.now() - idle.answeredAtMs > restMsMax + checkEveryMs) void this.#check(idle);
      else {
        this.#idle.pop();
        idle.state = 'lent';
        return idle.connection;
      }
    }
    if (this.#waiters.length >= this.#settings.connectionsMax * 2) {
      throw new Refusal('OVERLOADED', 'Too many wait for a connection to the database');
    }
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        reject(this.#whyLate());
      }, waitMs);
      const waiter: Waiter = {
        take(pooled) {
          clearTimeout(timer);
          pooled.state = 'lent';
          resolve(pooled.connection);
        },
        fail(cause) {
          clearTimeout(timer);
          reject(new DatabaseLost(`No connection to the database: ${textOf(cause)}`, cause));
        },
      };
      this.#waiters.push(waiter);
      this.#openMore();
    });
  }

  /** Why nobody has got a connection in time. */
  #whyLate(): Error {
    if (this.#all.size > 0) {
      return new Refusal('OVERLOADED', 'No connection to the database became free in time');
    }
    const message = 'No connection to the database could be made in time';
    const openedMs = performance.now() - Math.min(...this.#opening.values());
    return openedMs < openSlowMs ? new DatabaseSlow(message) : new DatabaseLost(message);
  }

  #openMore(): void {
    const { connectionsMax } = this.#settings;
    while (
      this.#opening.size < this.#waiters.length &&
      this.#all.size + this.#opening.size < connectionsMax &&
      !this.#ended.signal.aborted
    ) {
      const opening = this.#open().finally(() => {
        this.#opening.delete(opening);
        this.#openMore();
      });
      this.#opening.set(opening, performance.now());
    }
  }

  async #open(): Promise<void> {
    const { address, ...options } = this.#settings;
    let opened: OpenConnection;
    try {
      opened = await openConnection(address, options, this.#ended.signal);
    } catch (error) {
      this.#waiters.shift()?.fail(error);
      return;
    }
    const { driver, connection, session } = opened;
    const pooled: Pooled = { ...opened, state: 'checked', answeredAtMs: performance.now() };
    sessions.set(connection, session);
    Object.assign(connection, {
      release: () => this.#release(pooled),
      destroy: () => {
        this.#remove(pooled);
        this.#doubtIdle();
      },
    });
    driver.once('end', () => this.#forget(pooled));
    driver.once('error', () => this.#forget(pooled));
    this.#all.add(pooled);
    if (this.#ended.signal.aborted) this.#remove(pooled);
    else this.#give(pooled);
    this.#checks ??= setInterval(() => this.#checkRested(), checkEveryMs).unref();
  }

  #release(pooled: Pooled): void {
    if (pooled.state !== 'lent') return;
    pooled.answeredAtMs = performance.now();
    if (pooled.driver.state === 'authenticated') this.#give(pooled);
    else this.#remove(pooled);
  }

  #give(pooled: Pooled): void {
    if (pooled.state === 'gone') return;
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) {
      waiter.take(pooled);
      return;
    }
    pooled.state = 'idle';
    this.#idle.push(pooled);
  }

  #remove(pooled: Pooled): void {
    destroy(pooled.driver);
    this.#forget(pooled);
  }

  /** One that has ended by itself is left to the driver, which has a statement under way to answer. */
  #forget(pooled: Pooled): void {
    if (pooled.state === 'gone') return;
    if (pooled.state === 'idle') this.#idle.splice(this.#idle.indexOf(pooled), 1);
    pooled.state = 'gone';
    this.#all.delete(pooled);
    this.#openMore();
  }

  /** One that had to be destroyed makes the others doubtful: they may go the same way to the server. */
  #doubtIdle(): void {
    for (const pooled of [...this.#idle]) void this.#check(pooled);
  }

  #checkRested(): void {
    const now = performance.now();
    for (const pooled of [...this.#idle]) {
      const restMs = pooled.session.endsSoon ? checkEveryMs : restMsMax;
      if (now - pooled.answeredAtMs > restMs) void this.#check(pooled);
    }
  }

  /** Nobody is lent it meanwhile. */
  async #check(pooled: Pooled): Promise<void> {
    this.#idle.splice(this.#idle.indexOf(pooled), 1);
    pooled.state = 'checked';
    if (await rests(pooled, answerMsMax)) {
      pooled.answeredAtMs = performance.now();
      this.#give(pooled);
    } else this.#remove(pooled);
  }
}
