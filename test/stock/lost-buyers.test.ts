import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { reasonOf } from '../../services/runtime/refusals.ts';
import { skuKeys } from '../../services/stock/redis-keys.ts';
import { eventually } from '../support/eventually.ts';
import { atRest, newSku, reservation, reserve, startStockSystem, untilOpen } from './support.ts';

// Redis loses one part of a gate in the middle of a sale that is limited to one unit per user: by hand,
// or because it was set to drop what is used least. Nobody buys twice, and the sale goes on.

const system = await startStockSystem('lostbuyers');
after(() => system.close());

const users = Array.from({ length: 40 }, (_, index) => 50_000n + BigInt(index));

async function told(skuId: bigint, userId: bigint, requestId: string): Promise<string> {
  const outcome = await reserve(system, reservation([skuId], { userId, requestId }));
  return outcome.$case === 'refused' ? reasonOf(outcome.value.reason) : outcome.$case;
}

/** Asks until the gate is installed, as a buyer does who is told to come again. */
async function buyUntilDecided(skuId: bigint, userId: bigint, requestId: string): Promise<string> {
  let answer = '';
  await eventually(async () => {
    answer = await told(skuId, userId, requestId);
    return answer === 'reserved' || answer === 'PURCHASE_LIMIT';
  }, 'the buyer is told');
  return answer;
}

async function boughtMost(skuId: bigint): Promise<number> {
  const [rows] = await system.pool.query(
    `SELECT user_id, SUM(units) AS units FROM stock_holds WHERE sku_id = ? AND state IN (1, 2)
     GROUP BY user_id ORDER BY units DESC LIMIT 1`,
    [skuId],
  );
  return Number((rows as { units: string }[])[0]?.units);
}

for (const part of ['buyers', 'meta', 'avail'] as const) {
  test(`a gate that loses its ${part} in the middle of a sale lets nobody buy twice`, async () => {
    const skuId = await newSku(system, 1_000n, { limitPerUser: 1 });
    const key = skuKeys(skuId)[part];
    for (const userId of users.slice(0, 20)) {
      assert.equal(await buyUntilDecided(skuId, userId, 'first'), 'reserved');
    }
    const losses = setInterval(() => void system.redis.unlink(key), 30);
    try {
      // Those who have theirs already come again, those who have none come twice, all at the same time.
      const answers = await Promise.all(
        users.flatMap((userId) =>
          ['second', 'third'].map((request) =>
            told(skuId, userId, request).catch(() => 'no answer'),
          ),
        ),
      );
      assert.ok(answers.length === users.length * 2);
    } finally {
      clearInterval(losses);
    }
    await system.redis.unlink(key);
    for (const userId of users) await buyUntilDecided(skuId, userId, 'last');
    assert.equal(await boughtMost(skuId), 1);
    await untilOpen(system, skuId);
    assert.equal(await told(skuId, users[0] as bigint, 'once more'), 'PURCHASE_LIMIT');
    assert.equal(await buyUntilDecided(skuId, 60_000n, 'first'), 'reserved', 'the sale goes on');
    assert.equal(await atRest(system, skuId), 1_000 - users.length - 1);
  });
}
