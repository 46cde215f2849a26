import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import { metric, startBuyers, untilSold } from './buyers.ts';
import { breakRow, newSku, reservation, reserve, startStockSystem } from './support.ts';

const system = await startStockSystem('audit', { SLUICE_AUDIT_INTERVAL_MS: '200' });
const copy = await system.startCopy();
after(() => system.close());

/** A pass rests four times as long as it works, and with many SKUs it works for seconds. */
const passBounds = { withinMs: 150_000 };
const slow = { timeout: 600_000 };

const breaches = (promise: string, { metricsPort }: { metricsPort: number } = system) =>
  metric(metricsPort, 'stock_audit_breaches', `promise="${promise}"`);

async function untilBreaches(promise: string, count: number): Promise<void> {
  for (const side of [system, copy]) {
    await eventually(
      async () => (await breaches(promise, side)) === count,
      `${count} SKUs break ${promise} in the metrics of every process`,
      passBounds,
    );
  }
}

/** Damages data that no statement of ours could: the server checks what it is given otherwise. */
async function damage(sql: string, values: readonly unknown[]): Promise<void> {
  assert((await breakRow(system.pool, sql, values)) > 0);
}

async function passes(): Promise<number> {
  const [rows] = await system.pool.query(
    'SELECT CAST(UNIX_TIMESTAMP(audited_time) * 1000 AS SIGNED) AS audited_ms FROM audit_cursor',
  );
  return Number((rows as { audited_ms: string }[])[0]?.audited_ms);
}

async function untilPasses(count: number): Promise<void> {
  for (let pass = 0; pass < count; pass += 1) {
    const before = await passes();
    await eventually(async () => (await passes()) > before, 'a pass is complete', passBounds);
  }
}

test('a sale that goes on breaks nothing, and the age of the audit stays low', async () => {
  const skuIds = [await newSku(system, 5_000n), await newSku(system, 5_000n, { limitPerUser: 2 })];
  const buyers = startBuyers(system, skuIds);
  try {
    await untilSold(buyers, 30);
    await untilPasses(5);
  } finally {
    await buyers.stop();
  }
  assert.deepEqual([await breaches('P1'), await breaches('limit')], [0, 0]);
  const before = await passes();
  await eventually(async () => (await passes()) > before, 'the audit goes on');
  const age = await metric(copy.metricsPort, 'stock_audit_age_seconds');
  assert(age >= 0 && age < 60, `${age} s`);
});

for (const [what, harm, mend] of [
  [
    'a unit that is sold from nowhere',
    'UPDATE skus SET held = held + 1 WHERE sku_id = ?',
    'UPDATE skus SET held = held - 1 WHERE sku_id = ?',
  ],
  [
    'figures that add up while the rows say otherwise',
    'UPDATE skus SET held = held + 1, available = available - 1 WHERE sku_id = ?',
    'UPDATE skus SET held = held - 1, available = available + 1 WHERE sku_id = ?',
  ],
  [
    'a hold that was changed behind its figures',
    'UPDATE stock_holds SET state = 2 WHERE state = 1 AND sku_id = ?',
    'UPDATE stock_holds SET state = 1 WHERE state = 2 AND sku_id = ?',
  ],
  [
    'a figure below zero',
    'UPDATE skus SET available = available - 100, supplied = supplied - 100 WHERE sku_id = ?',
    'UPDATE skus SET available = available + 100, supplied = supplied + 100 WHERE sku_id = ?',
  ],
] as const) {
  test(`${what} is found, and is gone from the metric when it is mended`, async () => {
    const skuId = await newSku(system, 10n);
    await reserve(system, reservation([skuId]));
    await untilPasses(1);
    assert.equal(await breaches('P1'), 0);
    await damage(harm, [skuId]);
    await untilBreaches('P1', 1);
    const [rows] = await system.pool.query('SELECT sku_id, detail FROM audit_breaches');
    const [found] = rows as { sku_id: string; detail: string }[];
    assert.equal(found?.sku_id, String(skuId));
    assert.match(found?.detail ?? '', /supplied .* the rows say held/);
    await damage(mend, [skuId]);
    await untilBreaches('P1', 0);
  });
}

test('a user with more than the limit is found, unless the limit was lowered afterwards', async () => {
  const skuId = await newSku(system, 10n, { limitPerUser: 2 });
  const order = reservation([skuId], { quantity: 2 });
  await reserve(system, order);
  await system.admin.updateSku({ skuId, limitPerUser: 1 });
  await untilPasses(2);
  assert.equal(await breaches('limit'), 0);
  await system.admin.updateSku({ skuId, limitPerUser: 2 });
  await system.redis.hset(`{sku:${skuId}}:buyers`, String(order.userId), '0');
  const more = await reserve(system, reservation([skuId], { userId: order.userId }));
  assert.equal(more.$case, 'reserved', 'the gate has forgotten');
  await untilBreaches('limit', 1);
  await system.stock.releaseStock({
    releases: [{ ...order, skuIds: [] }].map(({ orderId, userId, requestId, skuIds }) => {
      return { orderId, userId, requestId, skuIds };
    }),
  });
  await untilBreaches('limit', 0);
});

test('many more SKUs than one turn takes are all looked at', slow, async () => {
  const first = 1_000_000;
  const count = 1_200;
  const values = Array.from(
    { length: count },
    (_, index) => `(${first + index}, '', 'USD', 1, 0, 0,
    1, 7, 7, 0, 0, 0, '', NOW(3), NOW(3))`,
  );
  await system.pool.query(`INSERT INTO skus (sku_id, title, currency, unit_price_minor,
    limit_per_user, paused, settings_version, supplied, available, held, sold, epoch,
    creation_digest, create_time, update_time) VALUES ${values.join(',')}`);
  await untilPasses(1);
  await damage('UPDATE skus SET sold = 1 WHERE sku_id IN (?, ?)', [first, first + count - 1]);
  await untilBreaches('P1', 2);
  await damage('UPDATE skus SET sold = 0 WHERE sku_id IN (?, ?)', [first, first + count - 1]);
  await untilBreaches('P1', 0);
});

test(
  'a process that dies with the claim holds the others up for a bounded time only',
  slow,
  async () => {
    await system.pool.query(
      `UPDATE audit_cursor SET owner = 'dead', owned_until = NOW(3) + INTERVAL 1 SECOND`,
    );
    await untilPasses(1);
  },
);

test(
  'a claim and a rest that were stored while the clock was ahead hold no audit up',
  slow,
  async () => {
    await system.pool.query(
      `UPDATE audit_cursor SET owner = 'dead', owned_until = NOW(3) + INTERVAL 10 MINUTE,
       due_time = NOW(3) + INTERVAL 10 MINUTE`,
    );
    await untilPasses(1);
  },
);

test('an audit that fails at every turn shows by its age', async () => {
  const alone = await startStockSystem('audit-alone', { SLUICE_AUDIT_INTERVAL_MS: '200' });
  const age = () => metric(alone.metricsPort, 'stock_audit_age_seconds');
  let failures = 0;
  try {
    failpoints.set('stock.before_audit_stored', () => {
      failures += 1;
      throw new Error('no turn today');
    });
    // Those of the other processes of this file among them.
    await eventually(() => failures >= 30, 'turns fail');
    const before = await age();
    await eventually(async () => (await age()) > before + 1, 'the age grows');
  } finally {
    failpoints.clear();
    await alone.close();
  }
});
