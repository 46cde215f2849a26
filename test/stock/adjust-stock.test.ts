import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fromClientError } from '../../services/runtime/refusal-status.ts';
import type { Refusal } from '../../services/runtime/refusals.ts';
import { runSeed, seededRandom } from '../support/workload.ts';
import { figuresOf, startBuyers, untilSold } from './buyers.ts';
import { atRest, newSku, reservation, reserve, shortAge, startStockSystem } from './support.ts';

const system = await startStockSystem('adjust', shortAge);
const copy = await system.startCopy();
after(() => system.close());

interface Adjustment {
  readonly skuId: bigint;
  readonly delta: bigint;
  readonly requestId: string;
}

/** Whether it counted now, had counted before, or why it was refused. */
async function adjust(
  side: Pick<typeof copy, 'admin'>,
  adjustment: Adjustment,
): Promise<'counted' | 'replayed' | Refusal> {
  try {
    const { replayed } = await side.admin.adjustStock(adjustment);
    return replayed ? 'replayed' : 'counted';
  } catch (error) {
    return fromClientError(error);
  }
}

function reasonOf(answer: string | Refusal): string {
  return typeof answer === 'string' ? answer : answer.reason;
}

async function expectAddedUp(skuId: bigint, supplied: number): Promise<void> {
  await atRest(system, skuId);
  const figures = await figuresOf(system, skuId);
  assert.equal(figures.supplied, supplied);
  assert.equal(figures.supplied, figures.available + figures.held);
  assert.equal(figures.held, figures.rowsHeld);
}

for (const delta of [40n, -40n]) {
  test(`an adjustment by ${delta} that is sent 50 times at once to two processes in a sale counts once`, async () => {
    const skuId = await newSku(system, 10_000n);
    const buyers = startBuyers(system, [skuId]);
    try {
      await untilSold(buyers, 10);
      const adjustment = { skuId, delta, requestId: `fifty ${delta}` };
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, index) => adjust(index % 2 ? system : copy, adjustment)),
      );
      const counted = answers.map(reasonOf).filter((answer) => answer === 'counted');
      const others = answers.map(reasonOf).filter((answer) => answer !== 'counted');
      assert.equal(counted.length, 1);
      assert.deepEqual(new Set(others), new Set(['replayed']));
      await untilSold(buyers, 10);
    } finally {
      await buyers.stop();
    }
    await expectAddedUp(skuId, 10_000 + Number(delta));
  });
}

test('an id that stands for another adjustment is refused, of the same SKU and of another', async () => {
  const [skuId, other] = [await newSku(system, 10n), await newSku(system, 10n)];
  const first = { skuId, delta: 5n, requestId: 'one id' };
  assert.equal(await adjust(system, first), 'counted');
  for (const changed of [
    { ...first, delta: 6n },
    { ...first, delta: -5n },
    { ...first, skuId: other },
  ]) {
    assert.equal(reasonOf(await adjust(copy, changed)), 'IDEMPOTENCY_KEY_REUSED');
  }
  assert.equal(await adjust(copy, first), 'replayed');
  await expectAddedUp(skuId, 15);
  await expectAddedUp(other, 10);
});

test('one id for two SKUs at once counts for one of them', async () => {
  const skuIds = [await newSku(system, 10n), await newSku(system, 10n)] as const;
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) => {
      const skuId = skuIds[index % 2] as bigint;
      return adjust(index % 3 ? system : copy, { skuId, delta: 1n, requestId: 'two SKUs' });
    }),
  );
  assert.equal(answers.filter((answer) => answer === 'counted').length, 1);
  const figures = await Promise.all(skuIds.map((skuId) => figuresOf(system, skuId)));
  assert.equal(
    figures.reduce((sum, { supplied }) => sum + supplied, 0),
    21,
  );
});

test('a recall of more than is available names the field and what there is, and does nothing', async () => {
  const skuId = await newSku(system, 5n);
  await reserve(system, reservation([skuId], { quantity: 3 }));
  const answer = await adjust(system, { skuId, delta: -3n, requestId: 'too many' });
  assert(typeof answer === 'object');
  assert.equal(answer.reason, 'SOLD_OUT');
  assert.equal(answer.skuId, skuId);
  const [violation] = answer.violations;
  assert.equal(violation?.field, 'delta');
  assert.match(violation?.description ?? '', /only 2 units are available/);
  await expectAddedUp(skuId, 5);
  assert.equal(
    await adjust(system, { skuId, delta: -2n, requestId: 'too many' }),
    'counted',
    'a refused id is free',
  );
  await expectAddedUp(skuId, 3);
});

test('after a random mix of additions, recalls and buyers everything adds up', async () => {
  const seed = runSeed();
  console.log(`seed ${seed} (SLUICE_TEST_SEED)`);
  const initial = 200;
  const skuIds = [await newSku(system, BigInt(initial)), await newSku(system, BigInt(initial))];
  const counted = new Map<bigint, number>(skuIds.map((skuId) => [skuId, initial]));
  const buyers = [
    startBuyers(system, skuIds, { seed }),
    startBuyers(copy, skuIds, { seed: seed + 50 }),
  ];
  const sent: Adjustment[] = [];
  const refusals = new Set<string>();
  async function operator(index: number): Promise<void> {
    const random = seededRandom(seed + 1_000 + index);
    for (let step = 0; step < 60; step += 1) {
      const earlier = sent[Math.floor(random() * sent.length)];
      const skuId = skuIds[Math.floor(random() * 2)] as bigint;
      const units = 1 + Math.floor(random() * 60);
      const delta = BigInt(random() < 0.5 ? units : -units);
      const fresh = { skuId, delta, requestId: `mix ${index} ${step}` };
      const adjustment = earlier && random() < 0.3 ? earlier : fresh;
      if (adjustment === fresh) sent.push(fresh);
      const answer = await adjust(random() < 0.5 ? system : copy, adjustment);
      if (answer === 'counted') {
        const before = counted.get(adjustment.skuId) as number;
        counted.set(adjustment.skuId, before + Number(adjustment.delta));
      } else if (answer !== 'replayed') refusals.add(answer.reason);
      await sleep(random() * 20);
    }
  }
  try {
    await Promise.all(Array.from({ length: 4 }, (_, index) => operator(index)));
  } finally {
    await Promise.all(buyers.map((each) => each.stop()));
  }
  for (const reason of refusals) assert.equal(reason, 'SOLD_OUT');
  for (const skuId of skuIds) await expectAddedUp(skuId, counted.get(skuId) as number);
});
