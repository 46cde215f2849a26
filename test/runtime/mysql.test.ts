import assert from 'node:assert/strict';
import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { after, before, beforeEach, test } from 'node:test';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  createPool,
  duplicateKeyErrno,
  lockWaitTimeoutErrno,
  mysqlErrno,
  type Pool,
  query,
  transaction,
} from '../../services/runtime/mysql.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { createScratchDatabase } from '../support/databases.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';

const name = uniquePrefix('mysql');
const soon = (): Deadline => Deadline.after(20_000);
let pool: Pool;
let drop: () => Promise<void>;

before(async () => {
  ({ pool, drop } = await createScratchDatabase(name));
  await pool.query('CREATE TABLE account (id INT PRIMARY KEY, amount BIGINT NOT NULL)');
});

after(async () => await drop());

beforeEach(async () => {
  // What a test has killed may hold its locks for a moment: then this runs again.
  await transaction(pool, { deadline: soon() }, async (connection) => {
    await connection.query('DELETE FROM account');
    await connection.query('INSERT INTO account VALUES (1, 100), (2, 100)');
  });
});

async function amounts(): Promise<string[]> {
  const rows = await query<{ amount: string }[]>(
    pool,
    'SELECT amount FROM account ORDER BY id',
    [],
    { deadline: soon() },
  );
  return rows.map(({ amount }) => amount);
}

const set = (id: number, amount: number): string =>
  `UPDATE account SET amount = ${amount} WHERE id = ${id}`;

test('sessions run READ COMMITTED in UTC and BIGINT arrives as a string', async () => {
  const [row] = await query<Record<string, string>[]>(
    pool,
    `SELECT @@tx_isolation AS isolation, @@innodb_lock_wait_timeout AS wait_s,
       @@idle_transaction_timeout AS idle_s, @@time_zone AS zone, 9223372036854775807 AS big`,
    [],
    { deadline: soon() },
  );
  assert.equal(row?.isolation, 'READ-COMMITTED');
  assert.equal(Number(row?.wait_s), 1);
  assert.equal(Number(row?.idle_s), 4);
  assert.equal(row?.zone, '+00:00');
  assert.equal(row?.big, '9223372036854775807');
});

test('a transaction that throws leaves nothing behind and keeps its first error', async () => {
  const failed = transaction(pool, { deadline: soon() }, async (connection) => {
    await connection.query(set(1, 1));
    await connection.query('INSERT INTO account VALUES (2, 0)');
  });
  await assert.rejects(failed, (error) => mysqlErrno(error) === duplicateKeyErrno);
  assert.deepEqual(await amounts(), ['100', '100']);
});

test('a deadlock runs the whole transaction again', async () => {
  let runs = 0;
  const firstLocks: Promise<void>[] = [];
  const arrive: (() => void)[] = [];
  for (let side = 0; side < 2; side += 1) {
    firstLocks.push(new Promise((resolve) => arrive.push(resolve)));
  }
  const move = (side: number, from: number, to: number): Promise<void> =>
    transaction(pool, { deadline: soon() }, async (connection) => {
      runs += 1;
      await connection.query(`UPDATE account SET amount = amount - 10 WHERE id = ${from}`);
      arrive[side]?.();
      await Promise.all(firstLocks);
      await connection.query(`UPDATE account SET amount = amount + 10 WHERE id = ${to}`);
    });
  await Promise.all([move(0, 1, 2), move(1, 2, 1)]);
  assert(runs > 2, `a deadlock happened: ${runs} runs`);
  assert.deepEqual(await amounts(), ['100', '100']);
});

test('a lock wait is retried a bounded number of times and then reported', async () => {
  const holder = await pool.getConnection();
  await holder.query('START TRANSACTION');
  await holder.query(set(1, 5));
  let runs = 0;
  const blocked = transaction(pool, { deadline: soon(), attempts: 2 }, async (connection) => {
    runs += 1;
    await connection.query(set(1, 6));
  });
  await assert.rejects(blocked, (error) => mysqlErrno(error) === lockWaitTimeoutErrno);
  assert.equal(runs, 2);
  await holder.query('ROLLBACK');
  holder.release();
  await transaction(pool, { deadline: soon() }, (connection) => connection.query(set(1, 7)));
  assert.deepEqual(await amounts(), ['7', '100']);
});

test('a statement past its deadline does not commit, and its connection is not reused', async () => {
  const single = createPool(mysqlUrl, { database: name, connectionsMax: 1 });
  const idBefore = await connectionId(single);
  const slow = transaction(single, { deadline: Deadline.after(200) }, async (connection) => {
    await connection.query(set(1, 1));
    await connection.query('SELECT SLEEP(30)');
  });
  await assert.rejects(slow, hasReason('DEPENDENCY_DOWN'));
  assert.notEqual(await connectionId(single), idBefore);
  await single.end();
  assert.deepEqual(await amounts(), ['100', '100']);
});

test('a pool without a free connection answers by the deadline and loses none', async () => {
  const single = createPool(mysqlUrl, { database: name, connectionsMax: 1 });
  const busy = await single.getConnection();
  const waiting = query(single, 'SELECT 1', [], { deadline: Deadline.after(50) });
  await assert.rejects(waiting, hasReason('OVERLOADED'));
  busy.release();
  await query(single, 'SELECT 1', [], { deadline: soon() });
  await single.end();
});

test('a COMMIT whose reply is lost is unknown, although it took effect', async () => {
  const proxy = await startProxyThatCutsAtCommit();
  const cut = createPool(`mysql://root@127.0.0.1:${proxy.port}`, {
    database: name,
    connectionsMax: 1,
  });
  const lost = transaction(cut, { deadline: soon() }, (connection) => connection.query(set(1, 9)));
  await assert.rejects(lost, hasReason('OUTCOME_UNKNOWN'));
  await cut.end();
  await proxy.stop();
  await eventually(async () => (await amounts())[0] === '9', 'it took effect');
  assert.deepEqual(await amounts(), ['9', '100']);
});

async function connectionId(of: Pool): Promise<string> {
  const rows = await query<{ id: string }[]>(of, 'SELECT CONNECTION_ID() AS id', [], {
    deadline: soon(),
  });
  return String(rows[0]?.id);
}

/** Forwards everything to the server, but swallows the answer to COMMIT and cuts the connection. */
async function startProxyThatCutsAtCommit(): Promise<{ port: number; stop(): Promise<void> }> {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connectTcp(Number(new URL(mysqlUrl).port), new URL(mysqlUrl).hostname);
    let cutting = false;
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
    }
    client.on('data', (data) => {
      if (data.toString('latin1').endsWith('COMMIT')) cutting = true;
      upstream.write(data);
    });
    upstream.on('data', (data) => {
      if (cutting) client.destroy();
      else client.write(data);
    });
    client.on('close', () => upstream.end());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as { port: number }).port,
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function hasReason(reason: string): (error: unknown) => boolean {
  return (error) => error instanceof Refusal && error.reason === reason;
}
