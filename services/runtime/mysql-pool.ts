import type { Pool as DriverPool, PoolConnection } from 'mysql2/promise';
import type { Deadline } from './deadline.ts';
import {
  destroy,
  type OpenConnection,
  openConnection,
  quit,
  type ServerAddress,
} from './mysql-connection.ts';
import { DatabaseLost, DatabaseSlow, isConnectionUseless, textOf } from './mysql-errors.ts';
import { createIdleConnections, type IdleConnections, type Pooled } from './mysql-idle.ts';
import { createStatementKiller, type StatementKiller } from './mysql-killer.ts';
import type { ServerSession } from './mysql-session.ts';
import type { SessionNeeds } from './mysql-settings.ts';
import { createWaiters } from './mysql-waiters.ts';
import { Refusal } from './refusals.ts';

/** Callers without a deadline: tests and the command line. */
const patientMs = 60_000;
/** A new connection takes some milliseconds; after this long the server counts as not reached. */
const openSlowMs = 1_000;
const waitersPerConnection = 2;
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
  readonly #idle: IdleConnections;
  readonly #waiters = createWaiters<Pooled>();
  /** Connections being opened, by when that began. */
  readonly #opening = new Map<Promise<void>, number>();

  constructor(settings: PoolSettings) {
    this.#settings = settings;
    this.#killer = createStatementKiller(settings.address);
    this.#idle = createIdleConnections((pooled, isAlive) => {
      if (isAlive) this.#give(pooled);
      else this.#remove(pooled);
    });
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
    this.#idle.stop();
    while (this.#waiters.size > 0) this.#waiters.fail(new DatabaseLost('The pool is closed'));
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
    const idle = this.#idle.take();
    if (idle !== undefined) {
      idle.state = 'lent';
      return idle.connection;
    }
    if (this.#waiters.size >= this.#settings.connectionsMax * waitersPerConnection) {
      throw new Refusal('OVERLOADED', 'Too many wait for a connection to the database');
    }
    const waiting = this.#waiters.wait(waitMs, () => this.#whyLate());
    this.#openMore();
    return (await waiting).connection;
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
      this.#opening.size < this.#waiters.size &&
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
      const why = `No connection to the database: ${textOf(error)}`;
      this.#waiters.fail(new DatabaseLost(why, error));
      return;
    }
    const { driver, connection, session } = opened;
    const pooled: Pooled = { ...opened, state: 'checked', answeredAtMs: performance.now() };
    sessions.set(connection, session);
    Object.assign(connection, {
      release: () => this.#release(pooled),
      destroy: () => {
        this.#remove(pooled);
        // Others may go the same way to the server.
        this.#idle.doubt();
      },
    });
    driver.once('end', () => this.#forget(pooled));
    driver.once('error', () => this.#forget(pooled));
    this.#all.add(pooled);
    if (this.#ended.signal.aborted) this.#remove(pooled);
    else this.#give(pooled);
  }

  #release(pooled: Pooled): void {
    if (pooled.state !== 'lent') return;
    pooled.answeredAtMs = performance.now();
    if (pooled.driver.state === 'authenticated') this.#give(pooled);
    else this.#remove(pooled);
  }

  #give(pooled: Pooled): void {
    if (pooled.state === 'gone') return;
    pooled.state = 'lent';
    if (!this.#waiters.give(pooled)) this.#idle.put(pooled);
  }

  #remove(pooled: Pooled): void {
    destroy(pooled.driver);
    this.#forget(pooled);
  }

  /** One that has ended by itself is left to the driver, which has a statement under way to answer. */
  #forget(pooled: Pooled): void {
    if (pooled.state === 'gone') return;
    pooled.state = 'gone';
    this.#idle.delete(pooled);
    this.#all.delete(pooled);
    this.#openMore();
  }
}
