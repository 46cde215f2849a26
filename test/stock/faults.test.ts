import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, test } from 'node:test';
import { startMariaDb } from '../../deploy/local/mariadb.ts';
import { freePort } from '../../deploy/local/port.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { reasonOf } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import {
  atRest,
  newSku,
  reservation,
  reserve,
  shortAge,
  startStockSystem,
  untilOpen,
} from './support.ts';

const mebibyte = 1024 * 1024;
const dir = mkdtempSync(join(tmpdir(), 'sluice-ledger-'));
const port = await freePort();
const small = { bufferPoolBytes: 64 * mebibyte, logFileBytes: 16 * mebibyte };
let database = await startMariaDb({ dir, port, ...small });
/** Long enough for answers that are to come, short enough for those that are not. */
const hasty = { SLUICE_REDIS_TIMEOUT_MS: '300' };
const system = await startStockSystem('faults', { ...shortAge, ...hasty }, database.url);
const pauseMs = 2_500;
const slow = { timeout: 300_000 };
after(async () => {
  await system.close();
  await database.stop();
  rmSync(dir, { recursive: true, force: true });
});
afterEach(() => failpoints.clear());

async function told(skuId: bigint): Promise<string> {
  try {
    const outcome = await reserve(system, reservation([skuId]));
    return outcome.$case === 'refused' ? reasonOf(outcome.value.reason) : outcome.$case;
  } catch (error) {
    return (error as Error).message.includes('UNAVAILABLE') ? 'UNAVAILABLE' : String(error);
  }
}

test('a reply of Redis that is lost takes the units once, and a retry adopts the order', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  failpoints.set('stock.before_gate', async () => {
    failpoints.clear();
    await system.redis.client('PAUSE', pauseMs, 'ALL');
  });
  assert.equal((await reserve(system, order)).$case, 'unknown');
  // Asked until it answers again; buyers would only open the circuit.
  await system.redis.ping();
  await eventually(async () => {
    const outcome = await reserve(system, order).catch(() => undefined);
    return outcome?.$case === 'reserved' || outcome?.$case === 'dead';
  }, 'the retry is decided');
  const available = await atRest(system, skuId);
  const [rows] = await system.pool.query(
    'SELECT COUNT(*) AS holds FROM stock_holds WHERE sku_id = ? AND state = 1',
    [skuId],
  );
  assert.equal(available, 5 - Number((rows as { holds: unknown }[])[0]?.holds));
});

test('a command that Redis finds after its deadline does nothing', async () => {
  const skuId = await newSku(system, 5n);
  const pid = Number(/process_id:(\d+)/.exec(await system.redis.info('server'))?.[1]);
  process.kill(pid, 'SIGSTOP');
  try {
    const kinds = await Promise.all(Array.from({ length: 5 }, () => told(skuId)));
    assert.deepEqual(new Set(kinds), new Set(['unknown']));
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  let unknown = 0;
  await eventually(async () => {
    const kind = await told(skuId);
    if (kind === 'unknown') unknown += 1;
    return kind === 'reserved';
  }, 'the sale goes on');
  // Whoever took a unit is a buyer for ever, and the late commands came before this one.
  const fields = await system.redis.hlen(`{sku:${skuId}}:buyers`);
  const buyers = fields - 1;
  assert(buyers <= 1 + unknown, `${buyers} users took units, ${unknown} of them unknown`);
});

test('while Redis is away an operator sees the ledger beside a gate that cannot be reached', async () => {
  const skuId = await newSku(system, 5n);
  const pid = Number(/process_id:(\d+)/.exec(await system.redis.info('server'))?.[1]);
  process.kill(pid, 'SIGSTOP');
  const { gate, ledger } = await system.admin
    .getStockLayers({ skuId })
    .finally(() => process.kill(pid, 'SIGCONT'));
  assert.equal(gate?.loaded, false);
  assert.equal(gate?.state, 'unreachable');
  assert.equal(ledger?.available, 5n);
  await untilOpen(system, skuId);
});

test(
  'while the ledger is away nothing is let through the gates, and afterwards the sale goes on',
  slow,
  async () => {
    const skuId = await newSku(system, 100n);
    await database.kill();
    await eventually(async () => (await told(skuId)) === 'UNAVAILABLE', 'the circuit opens');
    const before = await system.redis.zcard(`{sku:${skuId}}:pending`);
    for (let click = 0; click < 5; click += 1) assert.equal(await told(skuId), 'UNAVAILABLE');
    assert.equal(await system.redis.zcard(`{sku:${skuId}}:pending`), before);
    database = await startMariaDb({ dir, port, ...small });
    await eventually(async () => (await told(skuId)) === 'reserved', 'orders are taken again');
    assert.equal(await atRest(system, skuId), 99, 'what was lost meanwhile came back');
  },
);

test('a service that starts before Redis opens the gates when it comes', async () => {
  const skuId = await newSku(system, 5n);
  const restarted = system.restartRedis();
  const copy = await system.startCopy({ SLUICE_REDIS_TIMEOUT_MS: '10000' });
  await restarted;
  await untilOpen(copy, skuId);
  assert.equal((await reserve(copy, reservation([skuId]))).$case, 'reserved');
  await copy.stop();
});
