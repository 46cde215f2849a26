import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createPool } from '../../services/runtime/mysql.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { openSnapshot } from '../../services/stock/ledger-snapshot.ts';
import { mysqlUrl } from '../support/servers.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';

test('whoever finds no connection for a snapshot is told so by the deadline', async () => {
  const pool = createPool(mysqlUrl, { connectionsMax: 1 });
  const taken = await pool.getConnection();
  let isFree = false;
  const freeing = setTimeout(() => {
    isFree = true;
    taken.release();
  }, 30_000);
  try {
    await assert.rejects(
      openSnapshot(pool, Deadline.after(200)),
      (error) => error instanceof Refusal && error.reason === 'OVERLOADED',
    );
    assert.equal(isFree, false, 'it did not wait for the connection to become free');
  } finally {
    clearTimeout(freeing);
    if (!isFree) taken.release();
    await pool.end();
  }
});

test('a snapshot whose connection has fallen silent can be closed', {
  timeout: 120_000,
}, async () => {
  const proxy = await startTcpProxy(Number(new URL(mysqlUrl).port));
  const pool = createPool(`mysql://root@127.0.0.1:${proxy.port}`, { connectionsMax: 1 });
  try {
    const snapshot = await openSnapshot(pool, Deadline.after(600_000));
    await snapshot.take();
    proxy.silence();
    await snapshot.close();
    proxy.cut();
  } finally {
    await pool.end();
    await proxy.stop();
  }
});
