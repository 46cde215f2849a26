import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { createConnection } from 'mysql2/promise';
import { startMariaDb } from '../../deploy/local/mariadb.ts';
import { startMySql } from '../../deploy/local/mysql.ts';
import { whyNoMySql } from '../../deploy/local/mysql-programs.ts';
import { freePort } from '../../deploy/local/port.ts';
import type { ManagedProcess } from '../../deploy/local/process.ts';

const mebibyte = 1024 * 1024;

/** A database server of its own for one test file; its global settings may be changed. */
export interface SqlServer {
  readonly kind: 'MariaDB' | 'MySQL';
  readonly url: string;
  readonly port: number;
  /** The server's process. */
  process(): ManagedProcess;
  /** Runs statements as root, over a connection of their own. */
  sql<Row = Record<string, unknown>>(...statements: string[]): Promise<Row[]>;
  /** Stops it and starts it again with these arguments more than usual. */
  restart(args: readonly string[]): Promise<void>;
  /** Stops it and removes its data. */
  stop(): Promise<void>;
}

type Work = (server: SqlServer, t: TestContext) => Promise<void>;

/** Registers tests that run on one of the servers, or on each of them. */
export interface OnServers {
  testOn(kind: SqlServer['kind'], name: string, work: Work, options?: { timeout?: number }): void;
  /** The same test on MariaDB and on MySQL. */
  testOnEach(name: string, work: Work, options?: { timeout?: number }): void;
}

/**
 * One MariaDB and one MySQL for a test file; each starts with its first test and runs until the file ends. Tests on MySQL are
 * skipped where the machine neither has it nor can get it.
 */
export async function sqlServers(
  args: Partial<Record<SqlServer['kind'], string[]>> = {},
): Promise<OnServers> {
  const noMySql = await whyNoMySql();
  const started = new Map<SqlServer['kind'], Promise<SqlServer>>();
  after(async () => {
    for (const server of started.values()) await server.then((each) => each.stop());
  });
  const testOn: OnServers['testOn'] = (kind, name, work, options = {}) => {
    const skip = kind === 'MySQL' ? noMySql : undefined;
    test(`${kind}: ${name}`, { ...options, ...(skip === undefined ? {} : { skip }) }, async (t) => {
      const server = started.get(kind) ?? startSqlServer(kind, args[kind]);
      started.set(kind, server);
      await work(await server, t);
    });
  };
  return {
    testOn,
    testOnEach(name, work, options) {
      testOn('MariaDB', name, work, options);
      testOn('MySQL', name, work, options);
    },
  };
}

/** Starts a server on a free port; whoever starts it stops it. */
export async function startSqlServer(
  kind: SqlServer['kind'],
  args: readonly string[] = [],
): Promise<SqlServer> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-sql-'));
  const port = await freePort();
  const start = (more: readonly string[]) =>
    kind === 'MySQL'
      ? startMySql({ dir, port, args: [...args, ...more], bufferPoolBytes: 64 * mebibyte })
      : startMariaDb({
          ...{ dir, port, args: [...args, ...more] },
          ...{ bufferPoolBytes: 64 * mebibyte, logFileBytes: 64 * mebibyte },
        });
  let running = await start([]);
  return {
    ...{ kind, port, url: running.url },
    process: () => running,
    async sql(...statements) {
      const connection = await createConnection({ uri: running.url, timezone: 'Z' });
      try {
        let rows: unknown = [];
        for (const statement of statements) [rows] = await connection.query(statement);
        return rows as never;
      } finally {
        connection.destroy();
      }
    },
    async restart(more) {
      await running.stop();
      running = await start(more);
    },
    async stop() {
      await running.kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
