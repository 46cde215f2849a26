import assert from 'node:assert/strict';
import { freePort } from '../../deploy/local/port.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  isDatabaseLost,
  isDatabaseSlow,
  isLockWait,
  isUselessForWriting,
  type Pool,
  query,
  transaction,
} from '../../services/runtime/mysql.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { type SqlServer, sqlServers } from '../support/sql-servers.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import {
  add,
  amountOf,
  connectionId,
  prepareAccounts,
  soon,
  urlOfUser,
  withAccounts,
} from './accounts.ts';

const { testOn, testOnEach } = await sqlServers();

type Kind = 'lost' | 'slow' | 'neither';

/** Asserts what a refusal says, and whom it speaks against. */
async function assertRefused(work: Promise<unknown>, reason: string, kind: Kind): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(error instanceof Refusal && error.reason === reason, String(error));
    assert.equal(isDatabaseLost(error), kind === 'lost', `lost: ${error.cause}`);
    assert.equal(isDatabaseSlow(error), kind === 'slow', `slow: ${error.cause}`);
    assert.equal(isLockWait(error), false);
    return true;
  });
}

/** Ends all connections but the administrator's. */
async function cutConnections(server: SqlServer): Promise<void> {
  const rows = await server.sql<{ id: number }>(
    "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND DB = 'accounts'",
  );
  for (const { id } of rows) await server.sql(`KILL ${id}`).catch(() => undefined);
}

/** Tries until it works, as callers do. */
async function untilWritten(pool: Pool): Promise<void> {
  const written = (): Promise<boolean> =>
    add(pool, 1).then(
      () => true,
      () => false,
    );
  await eventually(written, 'the database can be written to', { withinMs: 20_000 });
}

testOnEach(
  'a server that was read only for a while is written to again, although connections were cut meanwhile',
  async (server) => {
    await prepareAccounts(server);
    const [tx, lock] =
      server.kind === 'MySQL'
        ? ['transaction_read_only', 'super_read_only']
        : ['tx_read_only', 'read_only'];
    const url = await urlOfUser(server);
    for (const setting of [tx, lock, 'read_only']) {
      await withAccounts(url, 3, async (pool) => {
        await add(pool, 1);
        const before = await connectionId(pool);
        await server.sql(`SET GLOBAL ${setting} = ON`);
        await cutConnections(server);
        try {
          // Sessions write by their own setting; what the server itself forbids is refused as a server that is away.
          if (setting === tx) await untilWritten(pool);
          else {
            const refused = (): Promise<boolean> =>
              assertRefused(add(pool, 1), 'DEPENDENCY_DOWN', 'lost').then(() => true);
            await refused();
            await refused();
          }
        } finally {
          await server.sql(`SET GLOBAL ${setting} = OFF`);
          if (setting === 'super_read_only') await server.sql('SET GLOBAL read_only = OFF');
        }
        await untilWritten(pool);
        assert.notEqual(await connectionId(pool), before);
      });
    }
  },
);

testOnEach('a connection that answers that it may only read is not lent again', async (server) => {
  await prepareAccounts(server);
  await withAccounts(server.url, 1, async (pool) => {
    await pool.query('SET SESSION TRANSACTION READ ONLY');
    await assertRefused(add(pool, 1), 'DEPENDENCY_DOWN', 'lost');
    await add(pool, 1);
    assert.equal(await amountOf(pool, 1), 101);
  });
});

testOnEach('a session that is killed is a lost database, with nothing done', async (server) => {
  await prepareAccounts(server);
  await withAccounts(server.url, 1, async (pool) => {
    const killed = transaction(pool, { deadline: soon() }, async (connection) => {
      await connection.query('UPDATE account SET amount = 0 WHERE id = 1');
      const killing = server.sql(`KILL ${connection.threadId}`);
      await Promise.all([connection.query('SELECT SLEEP(60)'), killing]);
    });
    await assertRefused(killed, 'DEPENDENCY_DOWN', 'lost');
    assert.equal(await amountOf(pool, 1), 100);
  });
});

testOnEach(
  'a statement past its deadline is a slow database and no lost one, and is ended on the server',
  async (server) => {
    await prepareAccounts(server);
    await withAccounts(server.url, 2, async (pool) => {
      const slow = transaction(pool, { deadline: Deadline.after(300) }, async (connection) => {
        await connection.query('UPDATE account SET amount = 0 WHERE id = 1');
        await connection.query('SELECT SLEEP(60)');
      });
      await assertRefused(slow, 'DEPENDENCY_DOWN', 'slow');
      await transaction(pool, { deadline: soon(), attempts: 20 }, (connection) =>
        connection.query('UPDATE account SET amount = amount + 1 WHERE id = 1'),
      );
      assert.equal(await amountOf(pool, 1), 101);
    });
  },
);

testOnEach(
  'a server that is not there, or swallows what is sent, is lost; a hasty caller cannot tell',
  async (server) => {
    await prepareAccounts(server);
    await withAccounts(`mysql://root@127.0.0.1:${await freePort()}`, 2, async (pool) => {
      await assertRefused(add(pool, 1), 'DEPENDENCY_DOWN', 'lost');
    });
    const proxy = await startTcpProxy(server.port);
    try {
      proxy.silenceNewOnes(true);
      await withAccounts(`mysql://root@127.0.0.1:${proxy.port}`, 2, async (pool) => {
        await assertRefused(add(pool, 1, Deadline.after(50)), 'DEPENDENCY_DOWN', 'slow');
        await assertRefused(add(pool, 1, Deadline.after(2_500)), 'DEPENDENCY_DOWN', 'lost');
      });
    } finally {
      await proxy.stop();
    }
  },
);

testOnEach(
  'connections that are all in use, and a deadline that is over, are overload and no fault of the database',
  async (server) => {
    await prepareAccounts(server);
    await withAccounts(server.url, 1, async (pool) => {
      const busy = await pool.getConnection();
      await assertRefused(add(pool, 1, Deadline.after(100)), 'OVERLOADED', 'neither');
      const waiting = [add(pool, 1), add(pool, 1)];
      await assertRefused(add(pool, 1), 'OVERLOADED', 'neither');
      busy.release();
      await Promise.all(waiting);
      await assertRefused(add(pool, 1, Deadline.after(-1)), 'OVERLOADED', 'neither');
    });
  },
);

testOnEach(
  'a COMMIT that is not answered is unknown, and tells a lost connection from silence',
  async (server) => {
    await prepareAccounts(server);
    for (const kind of ['lost', 'slow'] as const) {
      let seen = false;
      const proxy = await startTcpProxy(server.port, {
        onClientData(data) {
          seen ||= data.toString('latin1').endsWith('COMMIT');
          return data;
        },
        onServerData(data) {
          if (!seen) return data;
          return kind === 'lost' ? undefined : Buffer.alloc(0);
        },
      });
      await withAccounts(`mysql://root@127.0.0.1:${proxy.port}`, 1, async (pool) => {
        const deadline = Deadline.after(kind === 'lost' ? 60_000 : 1_000);
        await assertRefused(add(pool, 2, deadline), 'OUTCOME_UNKNOWN', kind);
        seen = false;
      });
      await proxy.stop();
    }
    await withAccounts(server.url, 1, async (pool) => assert.equal(await amountOf(pool, 2), 102));
  },
);

testOn('MariaDB', 'a user with too many connections is told why there is none', async (server) => {
  await prepareAccounts(server);
  const url = await urlOfUser(server, 'WITH MAX_USER_CONNECTIONS 1');
  await withAccounts(url, 4, async (pool) => {
    const first = await pool.getConnection();
    const read = query(pool, 'SELECT 1', [], { deadline: soon() });
    await assert.rejects(read, /No connection to the database: .*max_user_connections/);
    first.release();
    await add(pool, 1);
  });
});

testOn(
  'MariaDB',
  'the driver’s own errors of servers that cannot be written to are among ours',
  async () => {
    for (const errno of [1290, 1792, 1836]) assert.equal(isUselessForWriting(errno), true);
    for (const errno of [1062, 1205, 1213, 1969, 3024, 3572]) {
      assert.equal(isUselessForWriting(errno), false, String(errno));
    }
  },
);
