import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { moveHolds } from '../../services/stock/ledger-moves.ts';
import { eventually } from '../support/eventually.ts';
import { runSeed, seededRandom } from '../support/workload.ts';
import { atRest, newSku, noBusySkus, reservation, startStockSystem } from './support.ts';

const system = await startStockSystem('load');
const copy = await system.startCopy();
after(() => system.close());

const seed = runSeed();

interface Counted {
  readonly sku_id: string;
  readonly supplied: string;
  readonly available: string;
  readonly held: string;
  readonly sold: string;
  readonly rows_held: string;
  readonly rows_sold: string;
}

/** The figures of every SKU beside what its rows say. */
async function countLedger(): Promise<Counted[]> {
  const [rows] = await system.pool.query(
    `SELECT s.sku_id, s.supplied, s.available, s.held, s.sold,
       COALESCE(SUM(IF(h.state = 1, h.units, 0)), 0) AS rows_held,
       COALESCE(SUM(IF(h.state = 2, h.units, 0)), 0) AS rows_sold
     FROM skus s LEFT JOIN stock_holds h ON h.sku_id = s.sku_id
     GROUP BY s.sku_id ORDER BY s.sku_id`,
  );
  return rows as Counted[];
}

const slow = { timeout: 600_000 };
test(
  `two processes, several SKUs, releases, payments, rebuilds and recalls: seed ${seed}`,
  slow,
  async () => {
    const fraction = seededRandom(seed);
    const random = (max: number): number => Math.floor(fraction() * max);
    const skuIds: bigint[] = [];
    for (let count = 0; count < 6; count += 1) skuIds.push(await newSku(system, 200n));
    const reserved: StockReservation[] = [];
    const sides = [system, copy];

    async function buy(): Promise<void> {
      const { stock } = sides[random(2)] as typeof copy;
      const reservations = Array.from({ length: 1 + random(40) }, () => {
        const lines = skuIds
          .filter(() => random(3) === 0)
          .map((skuId) => ({ skuId, quantity: 1 + random(3) }));
        const some = lines.length > 0 ? lines : [{ skuId: skuIds[0] as bigint, quantity: 1 }];
        return reservation([], { lines: some });
      });
      const { results } = await stock.reserveStock({ reservations });
      for (const [index, { outcome }] of results.entries()) {
        if (outcome?.$case === 'reserved') reserved.push(reservations[index] as StockReservation);
      }
    }

    async function release(): Promise<void> {
      const { stock } = sides[random(2)] as typeof copy;
      const releases = reserved.splice(0, random(10)).map((order) => ({
        ...{ orderId: order.orderId, userId: order.userId, requestId: order.requestId },
        skuIds: order.lines.map(({ skuId }) => skuId),
      }));
      if (releases.length > 0) await stock.releaseStock({ releases });
    }

    async function pay(): Promise<void> {
      const moves = reserved.slice(0, random(10)).map(({ orderId }) => {
        const move = random(2) === 0 ? 'SELL' : 'RELEASE';
        return { orderId, move, fenceSkuIds: [], userId: 0n, requestId: '' } as const;
      });
      if (moves.length > 0) await moveHolds(system.pool, noBusySkus, moves, Deadline.after(30_000));
    }

    async function operate(): Promise<void> {
      const skuId = skuIds[random(skuIds.length)] as bigint;
      const { admin } = sides[random(2)] as typeof copy;
      const delta = BigInt(random(21) - 10);
      const requestId = `adjust ${random(2 ** 30)}`;
      // A recall of units that are not there is refused, and a rebuild may find another at work.
      if (random(4) === 0) await admin.rebuildStock({ skuId }).catch(() => undefined);
      else if (delta !== 0n)
        await admin.adjustStock({ skuId, delta, requestId }).catch(() => undefined);
    }

    const steps = Array.from({ length: 8 }, async (_, lane) => {
      for (let step = 0; step < 25; step += 1) {
        if (lane < 5) await buy();
        else if (lane === 5) await release();
        else if (lane === 6) await pay();
        else await operate();
      }
    });
    await Promise.all(steps);

    for (const row of await countLedger()) {
      const text = JSON.stringify(row);
      assert.equal(row.held, row.rows_held, text);
      assert.equal(row.sold, row.rows_sold, text);
      assert(Number(row.available) >= 0, text);
      const sum = Number(row.available) + Number(row.held) + Number(row.sold);
      assert.equal(Number(row.supplied), sum, text);
    }
    for (const skuId of skuIds) await atRest(system, skuId);
    const [partial] = await system.pool.query(
      `SELECT order_id FROM stock_holds GROUP BY order_id
     HAVING COUNT(DISTINCT state) > 1 AND SUM(state IN (1, 2)) > 0`,
    );
    assert.deepEqual(partial, [], 'an order is held wholly or not at all');
  },
);

test('metrics count what happened, without users, orders or SKUs as labels', async () => {
  const skuId = await newSku(system, 1n);
  const reservations = [reservation([skuId]), reservation([skuId])];
  await system.stock.reserveStock({ reservations });
  const read = async (): Promise<string> =>
    await (await fetch(`http://127.0.0.1:${system.metricsPort}/metrics`)).text();
  const text = await read();
  assert.match(text, /^stock_deduct_total\{status="success",service="stock"\} [1-9]/m);
  assert.match(text, /^stock_deduct_total\{status="rejected",service="stock"\} [1-9]/m);
  assert.match(text, /^batch_entries_count\{.*hop="stock_to_ledger"/m);
  assert.doesNotMatch(text, /(sku|user|order)(_?[iI]d)?="/);
  await eventually(
    async () => /^stock_sweep_lag_seconds\{.*\} \d/m.test(await read()),
    'the sweep reports its lag',
  );
  const isReady = async () =>
    (await fetch(`http://127.0.0.1:${system.metricsPort}/readyz`)).status === 200;
  await eventually(isReady, 'the process is ready');
});
