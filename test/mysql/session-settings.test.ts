import assert from 'node:assert/strict';
import type { RowDataPacket } from 'mysql2/promise';
import { migrateAll } from '../../db/migrate.ts';
import { checkExistingServers } from '../../deploy/local/existing-servers.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  createPool,
  isDatabaseLost,
  lockWaitTimeoutErrno,
  mysqlErrno,
  type Pool,
  query,
  ServerUnfit,
  transaction,
} from '../../services/runtime/mysql.ts';
import { type SqlServer, sqlServers } from '../support/sql-servers.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { prepareReliance, relianceDatabase, relyOn } from './reliance.ts';

// MySQL has a binary log by default, MariaDB when told.
const { testOn, testOnEach } = await sqlServers({
  MariaDB: ['--log-bin=log', '--binlog-format=ROW'],
});
const prepared = new Set<SqlServer>();

/** Global settings that an administrator may have chosen, and that our sessions must not follow. */
const oddOnBoth = [
  "sql_mode = ''",
  "sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'",
  'autocommit = 0',
  "completion_type = 'CHAIN'",
  "completion_type = 'RELEASE'",
  "time_zone = '+08:00'",
  'unique_checks = OFF',
  'foreign_key_checks = OFF',
  "default_storage_engine = 'MyISAM'",
  'sql_select_limit = 1',
  'max_join_size = 1',
  'sql_safe_updates = ON',
  'sql_auto_is_null = ON',
  'sql_buffer_result = ON',
  'group_concat_max_len = 8',
  'div_precision_increment = 1',
  'wait_timeout = 1',
  'net_read_timeout = 1',
  'net_write_timeout = 1',
  'innodb_lock_wait_timeout = 1000',
  'lock_wait_timeout = 1',
  'eq_range_index_dive_limit = 1',
];
const oddOn = {
  MariaDB: [
    "tx_isolation = 'SERIALIZABLE'",
    "tx_isolation = 'REPEATABLE-READ'",
    'tx_read_only = ON',
    'innodb_snapshot_isolation = ON',
    'max_statement_time = 0.05',
    "optimizer_switch = 'extended_keys=off'",
    'check_constraint_checks = OFF',
    'idle_transaction_timeout = 1',
    'idle_write_transaction_timeout = 1',
    'idle_readonly_transaction_timeout = 1',
    'in_predicate_conversion_threshold = 2',
    'optimizer_max_sel_arg_weight = 1',
  ],
  MySQL: [
    "transaction_isolation = 'SERIALIZABLE'",
    "transaction_isolation = 'REPEATABLE-READ'",
    'transaction_read_only = ON',
    'max_execution_time = 50',
    "optimizer_switch = 'use_index_extensions=off'",
    'range_optimizer_max_mem_size = 1',
  ],
};

async function prepare(server: SqlServer): Promise<void> {
  if (!prepared.has(server)) await prepareReliance(server);
  prepared.add(server);
}

async function withPool(url: string, work: (pool: Pool) => Promise<void>): Promise<void> {
  const options = { database: relianceDatabase, connectionsMax: 4, multipleStatements: true };
  const pool = createPool(url, options);
  try {
    await work(pool);
  } finally {
    await pool.end();
  }
}

/** Runs `work` while a global setting has another value. */
async function whileSet(server: SqlServer, odd: string, work: () => Promise<void>): Promise<void> {
  const name = odd.split(' = ')[0];
  const [before] = await server.sql<{ Value: string }>(`SHOW GLOBAL VARIABLES LIKE '${name}'`);
  const value = before?.Value ?? '';
  await server.sql(`SET GLOBAL ${odd}`);
  try {
    await work();
  } finally {
    await server.sql(`SET GLOBAL ${name} = ${/^[\d.]+$/.test(value) ? value : `'${value}'`}`);
  }
}

for (const [kind, only] of Object.entries(oddOn)) {
  for (const odd of [...oddOnBoth, ...only]) {
    testOn(
      kind as SqlServer['kind'],
      `our statements work although SET GLOBAL ${odd}`,
      async (server) => {
        await prepare(server);
        await whileSet(server, odd, () => withPool(server.url, relyOn));
      },
    );
  }
}

testOnEach('a lock is waited for a second, whatever the server’s own patience', async (server) => {
  await prepare(server);
  await whileSet(server, 'innodb_lock_wait_timeout = 1000', () =>
    withPool(server.url, async (pool) => {
      const holder = await pool.getConnection();
      await holder.query('START TRANSACTION');
      await holder.query('SELECT * FROM pair WHERE a = 1 FOR UPDATE');
      const options = { deadline: Deadline.after(30_000), attempts: 1 };
      const waiting = transaction(pool, options, (connection) =>
        connection.query('UPDATE pair SET c = c WHERE a = 1'),
      );
      await assert.rejects(waiting, (error) => mysqlErrno(error) === lockWaitTimeoutErrno);
      await holder.query('ROLLBACK');
      holder.release();
    }),
  );
});

/** Settings that no session can change and that our statements cannot work with, and what is said of each. */
const unfit: readonly [odd: string, sentence: RegExp][] = [
  [
    'max_allowed_packet = 1048576',
    /its setting max_allowed_packet is 1048576 bytes; set it to 4194304 or more/,
  ],
  ['binlog_format = "STATEMENT"', /its setting binlog_format is STATEMENT; set it to ROW or MIXED/],
];

for (const [odd, sentence] of unfit) {
  testOnEach(
    `a server with ${odd} is refused in a sentence, until it is mended`,
    async (server) => {
      await prepare(server);
      await withPool(server.url, async (pool) => {
        const read = (): Promise<unknown> =>
          query(pool, 'SELECT 1', [], { deadline: Deadline.after(30_000) });
        await whileSet(server, odd, async () => {
          await assert.rejects(read(), (error: Error) => {
            assert.ok(isDatabaseLost(error));
            assert.match(error.message, sentence);
            assert.match(error.message, new RegExp(`127.0.0.1:${server.port}`));
            return true;
          });
          await assert.rejects(pool.query('SELECT 1'), ServerUnfit);
          await assert.rejects(checkExistingServers({ mysqlUrls: server.url }), sentence);
          const orderShards = { databases: 1, tables: 1 };
          const migrating = migrateAll({
            mysqlUrls: [server.url],
            databasePrefix: 'unfit',
            orderShards,
          });
          await assert.rejects(migrating, sentence);
        });
        await read();
      });
    },
  );
}

testOnEach(
  'a server that ends whole transactions at a lock wait is refused in a sentence',
  async (server) => {
    await server.restart(['--innodb-rollback-on-timeout=ON']);
    await withPool(server.url, async (pool) => {
      await assert.rejects(
        pool.query('SELECT 1'),
        /its setting innodb_rollback_on_timeout is ON; start it with OFF/,
      );
    });
    await server.restart([]);
    await withPool(server.url, async (pool) => void (await pool.query('SELECT 1')));
  },
);

testOnEach('a session that could not be set up is never used', async (server) => {
  await prepare(server);
  let spoilt = 2;
  const proxy = await startTcpProxy(server.port, {
    onClientData(data) {
      const text = data.toString('latin1');
      if (!text.includes('SET SESSION') || spoilt === 0) return data;
      spoilt -= 1;
      return Buffer.from(text.replace('SET SESSION', 'SET SESSIOM'), 'latin1');
    },
  });
  await server.sql("SET GLOBAL sql_mode = ''");
  try {
    await withPool(`mysql://root@127.0.0.1:${proxy.port}`, async (pool) => {
      for (let attempt = 0; attempt < 2; attempt += 1) {
        await assert.rejects(pool.query('SELECT 1'), /refuses what our sessions need/);
      }
      await relyOn(pool);
    });
  } finally {
    await server.sql('SET GLOBAL sql_mode = DEFAULT');
    await proxy.stop();
  }
});

testOn(
  'MariaDB',
  'a warehouse that lacks a setting of ours is used all the same, with the others',
  async (server) => {
    await prepare(server);
    const proxy = await startTcpProxy(server.port, {
      onClientData(data) {
        const text = data.toString('latin1');
        const isMeant = /SET SESSION (sql_mode|max_join_size)/.test(text);
        return isMeant ? Buffer.from(text.replace('SET SESSION', 'SET SESSIOM'), 'latin1') : data;
      },
    });
    const url = `mysql://root@127.0.0.1:${proxy.port}`;
    const pool = createPool(url, { database: relianceDatabase, connectionsMax: 1, foreign: true });
    try {
      const deadline = Deadline.after(30_000);
      const sql = 'SELECT @@time_zone AS zone, @@innodb_lock_wait_timeout AS wait_s';
      const [row] = await query<RowDataPacket[]>(pool, sql, [], { deadline });
      assert.deepEqual({ ...row }, { zone: '+00:00', wait_s: '1' });
    } finally {
      await pool.end();
      await proxy.stop();
    }
  },
);

/** What a server may be started with, or a user be given, beside what SET GLOBAL can change. */
const oddStart = [
  '--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES',
  ...['--character-set-server=latin1', '--collation-server=latin1_swedish_ci'],
  ...['--default-storage-engine=MyISAM', '--innodb-autoinc-lock-mode=0', '--autocommit=0'],
  ...['--explicit-defaults-for-timestamp=OFF', '--transaction-isolation=SERIALIZABLE'],
  '--init-connect=SET NAMES latin1; SET sql_mode = ANSI; SET autocommit = 0; SET sql_select_limit = 1',
];
const oddStartOf = {
  MariaDB: ['--skip-character-set-client-handshake', '--lower-case-table-names=1'],
  // What the names of tables are compared by is chosen when MySQL's data is made.
  MySQL: [
    '--sql-require-primary-key=ON',
    '--sql-generate-invisible-primary-key=ON',
    '--parser-max-mem-size=10000000',
  ],
};

testOnEach(
  'a server that was started otherwise is migrated, and a user without privileges works on it',
  async (server) => {
    await prepare(server);
    await server.restart([...oddStart, ...oddStartOf[server.kind]]);
    const name = `odd_${server.kind.toLowerCase()}`;
    await server.sql(
      "CREATE USER IF NOT EXISTS 'app'@'127.0.0.1' IDENTIFIED BY 'secret'",
      "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, REFERENCES, RELOAD ON *.* TO 'app'@'127.0.0.1'",
    );
    const url = `mysql://app:secret@127.0.0.1:${server.port}`;
    const orderShards = { databases: 2, tables: 1 };
    await migrateAll({ mysqlUrls: [url], databasePrefix: name, orderShards });
    const [tables] = await server.sql<Record<string, unknown>>(
      `SELECT COUNT(*) AS found, SUM(engine = 'InnoDB') AS innodb FROM information_schema.tables WHERE table_schema LIKE '${name}%'`,
    );
    assert.ok(Number(tables?.found) > 20, `${tables?.found} tables`);
    assert.equal(Number(tables?.innodb), Number(tables?.found));
    await withPool(url, relyOn);
    await server.restart([]);
  },
);
