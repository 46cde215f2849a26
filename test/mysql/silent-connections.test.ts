import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { createConnection, type RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../../services/runtime/deadline.ts';
import { type Pool, transaction } from '../../services/runtime/mysql.ts';
import { eventually } from '../support/eventually.ts';
import { type SqlServer, sqlServers, startSqlServer } from '../support/sql-servers.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { add, amountOf, prepareAccounts, soon, withAccounts } from './accounts.ts';

const { testOn, testOnEach } = await sqlServers();
const connectionsMax = 8;

/** A pool whose connections all go through a proxy. */
async function throughProxy(
  server: SqlServer,
  work: (pool: Pool, proxy: TcpProxy) => Promise<void>,
): Promise<void> {
  await prepareAccounts(server);
  const proxy = await startTcpProxy(server.port);
  try {
    const url = `mysql://root@127.0.0.1:${proxy.port}`;
    await withAccounts(url, connectionsMax, (pool) => work(pool, proxy));
  } finally {
    await proxy.stop();
  }
}

/** As many at once as there are connections. @returns how many worked */
async function useAll(pool: Pool): Promise<number> {
  const uses = Array.from({ length: connectionsMax }, () =>
    transaction(pool, { deadline: Deadline.after(2_000) }, (connection) =>
      connection.query('SELECT SLEEP(0.05)'),
    ).then(
      () => 1,
      () => 0,
    ),
  );
  return (await Promise.all(uses)).reduce<number>((sum, one) => sum + one, 0);
}

testOn(
  'MariaDB',
  'connections that fell silent while they rested are noticed, and none of them is lent',
  async (server) => {
    await throughProxy(server, async (pool, proxy) => {
      assert.equal(await useAll(pool), connectionsMax);
      assert.equal(proxy.open(), connectionsMax);
      proxy.silence();
      const [rests, answers] = [5_000, 1_000];
      await sleep(rests + 2 * answers + 1_500);
      assert.equal(await useAll(pool), connectionsMax, 'the first to come are served');
    });
  },
);

testOn(
  'MariaDB',
  'connections that fall silent in use are all replaced soon after the first deadline',
  async (server) => {
    await throughProxy(server, async (pool, proxy) => {
      assert.equal(await useAll(pool), connectionsMax);
      proxy.silence();
      // One statement runs into its deadline; that makes the other connections doubtful.
      await assert.rejects(add(pool, 1, Deadline.after(500)), { reason: 'DEPENDENCY_DOWN' });
      assert.equal(await useAll(pool), connectionsMax, 'nobody else waits for a dead connection');
    });
  },
);

testOn(
  'MariaDB',
  'a process that stood still for a while keeps its connections',
  async (server) => {
    await throughProxy(server, async (pool, proxy) => {
      assert.equal(await useAll(pool), connectionsMax);
      const opened = proxy.opened();
      // One that is destroyed has the others looked at, just before the process stands still.
      (await pool.getConnection()).destroy();
      const until = performance.now() + 2_500;
      while (performance.now() < until);
      await sleep(200);
      assert.equal(await useAll(pool), connectionsMax);
      assert.equal(proxy.opened() - opened, 1, 'only the destroyed one was replaced');
    });
  },
);

testOnEach(
  'a statement past its deadline is ended on the server, although all connections of its pool are silent',
  async (server) => {
    await throughProxy(server, async (pool, proxy) => {
      assert.equal(await useAll(pool), connectionsMax);
      const slow = transaction(pool, { deadline: Deadline.after(1_000) }, async (connection) => {
        await connection.query('UPDATE account SET amount = 0 WHERE id = 1');
        const sleeping = connection.query('SELECT SLEEP(300)');
        proxy.silence();
        await sleeping;
      });
      await assert.rejects(slow, { reason: 'DEPENDENCY_DOWN' });
      // Its row is free long before the statement would have ended.
      await withAccounts(server.url, 1, async (direct) => {
        const options = { deadline: soon(), attempts: 40 };
        await transaction(direct, options, (connection) =>
          connection.query('UPDATE account SET amount = amount + 1 WHERE id = 1'),
        );
        assert.equal(await amountOf(direct, 1), 101);
      });
    });
  },
);

testOn(
  'MariaDB',
  'after a failover the statement of another server with the same number goes on',
  async (server, t) => {
    const other = await startSqlServer(server.kind);
    t.after(() => other.stop());
    await prepareAccounts(other);
    await throughProxy(server, async (pool, proxy) => {
      const [slowId, begun] = await begin(pool);
      const victim = await connectionWithId(other, slowId);
      const sleeping = victim.query<RowDataPacket[]>('SELECT SLEEP(3) AS interrupted');
      const connectionsBefore = await connectionsOf(other);
      proxy.target(other.port);
      await assert.rejects(begun, { reason: 'DEPENDENCY_DOWN' });
      // The errand of the KILL has been on the other server.
      await eventually(
        async () => (await connectionsOf(other)) > connectionsBefore + 1,
        'the other server was asked',
      );
      const [rows] = await sleeping;
      assert.equal(Number(rows[0]?.interrupted), 0, 'it slept to its end');
      await victim.end();
    });
  },
);

/** Starts a statement that will run past its deadline. @returns its session's number, and its end */
async function begin(
  pool: Pool,
): Promise<[id: number, end: { promise: Promise<unknown> }['promise']]> {
  let told: (id: number) => void = () => undefined;
  const id = new Promise<number>((resolve) => {
    told = resolve;
  });
  const end = transaction(pool, { deadline: Deadline.after(1_500) }, async (connection) => {
    told(connection.threadId);
    await connection.query('SELECT SLEEP(60)');
  });
  end.catch(() => undefined);
  return [await id, end];
}

/** Connects until the server gives this number to the session. */
async function connectionWithId(server: SqlServer, id: number) {
  for (;;) {
    const connection = await createConnection({ uri: server.url });
    if (connection.threadId === id) return connection;
    assert.ok(connection.threadId < id, `${connection.threadId} is past ${id}`);
    connection.destroy();
  }
}

/** How many connections a server has taken since it started, this one included. */
async function connectionsOf(server: SqlServer): Promise<number> {
  const [row] = await server.sql<{ Value: string }>("SHOW GLOBAL STATUS LIKE 'Connections'");
  return Number(row?.Value);
}
