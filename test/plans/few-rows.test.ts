import assert from 'node:assert/strict';
import { createEventTopics } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool } from '../../services/runtime/mysql.ts';
import { kafkaBrokers, uniquePrefix } from '../support/servers.ts';
import { type SqlServer, sqlServers } from '../support/sql-servers.ts';
import { type System, startSystem } from '../support/system.ts';
import { allowances } from './allowances.ts';
import { keyListsOf, rowsGoneThrough, someKeys, tableOf, withKeys } from './key-lists.ts';
import { expirySeconds, liveThrough, settleAgeMs } from './lives.ts';
import { fillWithOldRows, shards } from './old-rows.ts';
import {
  fewRows,
  recordedStatements,
  rowsAskedFor,
  type Statement,
  slowLogArguments,
  startRecording,
} from './slow-log.ts';

/** Makes the filling quick; and conditions are looked at where the rows that are read for them are counted. */
const quick = [
  ...['--innodb-flush-log-at-trx-commit=0', '--skip-innodb-doublewrite'],
  ...['--innodb-buffer-pool-size=512M', '--optimizer-switch=index_condition_pushdown=off'],
];
const { testOnEach } = await sqlServers({
  MariaDB: [...quick, ...slowLogArguments, '--innodb-log-file-size=512M'],
  MySQL: [...quick, ...slowLogArguments, '--innodb-redo-log-capacity=512M', '--skip-log-bin'],
});

testOnEach(
  'beside 200,000 old rows in each table no statement of whole lives reads more than it asks for',
  async (server) => {
    const prefix = uniquePrefix('plans');
    const filled = await fillWithOldRows(server.url, prefix);
    let system: System | undefined;
    try {
      await createEventTopics(kafkaBrokers.split(','), `${prefix}.`, createLog('test', 'silent'));
      await startRecording(server);
      system = await startSystem({
        name: 'plans',
        filled: { prefix, mysqlUrl: server.url },
        payments: 1,
        events: true,
        env: {
          SLUICE_ORDER_SHARDS: `${shards.databases}x${shards.tables}`,
          SLUICE_ORDER_EXPIRY_SECONDS: String(expirySeconds),
          SLUICE_SETTLE_AGE_MS: String(settleAgeMs),
          SLUICE_STOCK_RECHECK_AGE_SECONDS: '60',
          SLUICE_PAYMENT_POLL_MS: '1000',
          SLUICE_AUDIT_INTERVAL_MS: '1000',
        },
      });
      await liveThrough(system, filled);
      await system.close();
      system = undefined;
      const statements = await recordedStatements(server, prefix);
      await judge(server, prefix, statements);
      await judgeByKeys(server, statements);
    } finally {
      await system?.close();
      await filled.close();
    }
  },
  { timeout: 600_000 },
);

/** Every table was read or written, and no statement examined more rows than it may. */
async function judge(
  server: SqlServer,
  prefix: string,
  statements: readonly Statement[],
): Promise<void> {
  const tables = await server.sql<{ name: string }>(
    `SELECT DISTINCT table_name AS name FROM information_schema.tables
     WHERE table_schema LIKE '${prefix}%' AND table_schema <> '${prefix}_fill' AND table_name <> 'schema_migrations'`,
  );
  const unseen = tables.filter(({ name }) => !statements.some(({ text }) => text.includes(name)));
  assert.deepEqual(unseen, [], 'all tables were used');
  assert.ok(statements.length > 150, `${statements.length} kinds of statements`);
  const greedy = statements.filter((statement) => statement.rowsExamined > rowsMaxOf(statement));
  const told = greedy
    .toSorted((a, b) => b.rowsExamined - a.rowsExamined)
    .map(
      (statement) =>
        `${statement.rowsExamined} rows examined (${statement.rowsSent} sent, ${rowsMaxOf(statement)} allowed): ${statement.text.replace(/\s+/g, ' ').slice(0, 400)}`,
    );
  assert.deepEqual(told, []);
}

function rowsMaxOf({ text }: Statement): number {
  const allowance = allowances.find(({ pattern }) => pattern.test(text.replace(/\s+/g, ' ')));
  return allowance?.rowsMax ?? rowsAskedFor(text);
}

/** Numbers of keys that are planned differently by one server or the other. */
const keyCounts = [1, 2, 20, 200, 1_000];
/** An order has up to this many rows in a table. */
const rowsPerKey = 4;
const absentId = 9_000_000_000_000_000_000n;

/** Statements that name rows by lists of keys look them up, however many they are, and whether they are there or not. */
async function judgeByKeys(server: SqlServer, statements: readonly Statement[]): Promise<void> {
  const options = { connectionsMax: 1, multipleStatements: true };
  const greedy: string[] = [];
  let tried = 0;
  for (const [database, own] of Map.groupBy(statements, (statement) => statement.database)) {
    const pool = createPool(server.url, { ...options, database });
    const connection = await pool.getConnection();
    try {
      for (const { text } of own) {
        const table = tableOf(text);
        const columns = [...new Set(keyListsOf(text).flatMap((list) => list.columns))];
        if (table === undefined || columns.length === 0) continue;
        tried += 1;
        const present = await someKeys(connection, table, columns, Math.max(...keyCounts));
        for (const count of keyCounts) {
          const keys = present.slice(0, count);
          const absent = absentKeys(columns, keys.length || count);
          // A table that is empty for now has no keys to be named.
          for (const named of keys.length > 0 ? [keys, absent] : [absent]) {
            const rows = await rowsGoneThrough(connection, withKeys(text, named));
            if (rows <= fewRows + rowsPerKey * count) continue;
            const which = named === absent ? 'absent' : 'present';
            greedy.push(`${rows} rows for ${count} ${which} keys: ${text.slice(0, 300)}`);
          }
        }
      }
    } finally {
      connection.release();
      await pool.end();
    }
  }
  assert.deepEqual(greedy, []);
  assert.ok(tried > 10, `${tried} kinds of statements have lists of keys`);
}

function absentKeys(columns: readonly string[], count: number): Record<string, string>[] {
  return Array.from({ length: count }, (_, at) =>
    Object.fromEntries(columns.map((column) => [column, String(absentId + BigInt(at))])),
  );
}
