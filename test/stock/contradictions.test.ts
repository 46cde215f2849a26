import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { isBuyerWrong } from '../../services/stock/compare-buyers.ts';
import { Contradictions } from '../../services/stock/contradictions.ts';
import { skuKeys } from '../../services/stock/redis-keys.ts';
import { eventually } from '../support/eventually.ts';
import { type Buyers, figuresOf, metric, startBuyers, untilSold } from './buyers.ts';
import { atRest, newSku, reservation, reserve, shortAge, startStockSystem } from './support.ts';

const system = await startStockSystem('contradict', shortAge);
const copy = await system.startCopy();
after(() => system.close());

async function underBuyers(
  supplied: bigint,
  work: (skuId: bigint, buyers: Buyers) => Promise<void>,
): Promise<bigint> {
  const skuId = await newSku(system, supplied);
  const both = [startBuyers(system, [skuId]), startBuyers(copy, [skuId], { seed: 100 })] as const;
  try {
    await untilSold(both[0], 20);
    await work(skuId, both[0]);
  } finally {
    await Promise.all(both.map((buyers) => buyers.stop()));
  }
  await atRest(system, skuId);
  const { supplied: all, available, held, rowsHeld } = await figuresOf(system, skuId);
  assert.equal(held, rowsHeld);
  assert.equal(all, available + held);
  return skuId;
}

async function resyncs(cause: string): Promise<number> {
  const label = `cause="${cause}"`;
  const counts = await Promise.all(
    [system, copy].map(({ metricsPort }) => metric(metricsPort, 'stock_resync_total', label)),
  );
  return counts.reduce((sum, count) => sum + (Number.isNaN(count) ? 0 : count), 0);
}

/** A gate in use is looked at for ten seconds and more before it is suspected. */
const inUse = { withinMs: 120_000 };
const slow = { timeout: 300_000 };
/** Longer than a gate that was just installed is left alone. */
const afterRestMs = 1_100;
/** More than the buyers can take while they wait for a slow machine. */
const plenty = 1_000_000n;

async function epochOf(skuId: bigint): Promise<bigint> {
  return (await system.stock.getSku({ skuId })).sku?.epoch ?? -1n;
}

test(
  'a gate that believes too much, too little or nothing of its buyers is put right',
  slow,
  async () => {
    const skuId = await newSku(system, 1_000n, { limitPerUser: 3 });
    const orders = Array.from({ length: 4 }, () => reservation([skuId], { quantity: 2 }));
    await system.stock.reserveStock({ reservations: orders });
    await atRest(system, skuId);
    const [high, low, lost] = orders.map(({ userId }) => String(userId)) as [
      string,
      string,
      string,
    ];
    const key = `{sku:${skuId}}:buyers`;
    const stranger = '987654';
    await system.redis.hset(key, high, '3', low, '1', stranger, '2');
    await system.redis.hdel(key, lost);
    const before = await epochOf(skuId);
    const buyers = startBuyers(system, [skuId]);
    try {
      // The ledger's epoch rises a moment before the gate has its buyers anew.
      const isRight = async (): Promise<boolean> => {
        const known = await system.redis.hmget(key, high, low, lost, stranger);
        return isDeepStrictEqual(known, ['2', '2', '2', null]);
      };
      // All users of all SKUs are walked through, a thousand a second: so this comes before the long sales.
      await eventually(isRight, 'the gate knows its buyers', inUse);
      assert((await epochOf(skuId)) > before, 'by an installation');
    } finally {
      await buyers.stop();
    }
    await atRest(system, skuId);
  },
);

for (const [what, delta] of [
  ['lower than the ledger, as after a lost credit,', -500],
  ['higher than the ledger', 5_000],
] as const) {
  test(`a gate that is ${what} is put right while buyers go on`, slow, async () => {
    await underBuyers(plenty, async (skuId, buyers) => {
      const before = await epochOf(skuId);
      await system.redis.incrby(`{sku:${skuId}}:avail`, delta);
      const isAnew = async () => (await epochOf(skuId)) > before;
      await eventually(isAnew, 'the gate is installed anew', inUse);
      await untilSold(buyers, 20);
    });
  });
}

test('a gate without faults is never closed while buyers go on, for many looks', slow, async () => {
  await underBuyers(plenty, async (skuId, buyers) => {
    const before = await epochOf(skuId);
    // Twice as long as a gate in use is looked at before it is suspected.
    let looks = 0;
    await eventually(
      async () => {
        looks += 1;
        return looks > 22;
      },
      'time passes',
      { everyMs: 1_000, withinMs: 60_000 },
    );
    assert.equal(await epochOf(skuId), before);
    assert.equal(buyers.notLoaded(), 0);
  });
});

test('a gate that says sold out while the ledger has stock sells it', async () => {
  await underBuyers(plenty, async (skuId, buyers) => {
    await system.redis.set(`{sku:${skuId}}:avail`, '0');
    await untilSold(buyers, 20);
  });
});

test('what the ledger refuses although the gate admits it has the gate put right once', async () => {
  const before = await resyncs('ledger_refused');
  // Now and then the watch over gates at rest sees the contradiction first, and heals it.
  for (let round = 0; round < 5 && (await resyncs('ledger_refused')) === before; round += 1) {
    const skuId = await newSku(system, 5n);
    // Whoever has just installed it would not listen to a refusal yet.
    await sleep(afterRestMs);
    await system.redis.incrby(`{sku:${skuId}}:avail`, 50);
    const epoch = await epochOf(skuId);
    const sides = [system, copy, system, copy, system, copy, system, copy];
    const answers = await Promise.all(
      sides.map((side) => reserve(side, reservation([skuId])).catch(() => undefined)),
    );
    const reserved = answers.filter((answer) => answer?.$case === 'reserved').length;
    await eventually(async () => (await epochOf(skuId)) > epoch, 'the gate is installed anew');
    const left = await atRest(system, skuId);
    assert.equal(reserved + left, 5);
    if (left === 0) assert.equal((await reserve(copy, reservation([skuId]))).$case, 'refused');
  }
  assert((await resyncs('ledger_refused')) > before);
});

test('gate and ledger that differ for good at rest are shown in units', async () => {
  const skuId = await newSku(system, 1_000n);
  // Either process may be the one that sees it for the second time, and the one that heals it at the third.
  const shown = async () => {
    const ports = [system, copy].map(({ metricsPort }) => metricsPort);
    const units = ports.map((port) => metric(port, 'stock_gate_difference_units'));
    return Math.max(...(await Promise.all(units)));
  };
  await eventually(async () => (await shown()) === 0, 'nothing differs');
  let most = 0;
  await eventually(
    async () => {
      // It is shown for a second; a machine that stood still finds it healed, and then it differs again.
      const key = `{sku:${skuId}}:avail`;
      if ((await system.redis.get(key)) === '1000') await system.redis.incrby(key, -7);
      most = Math.max(most, await shown());
      return most > 0;
    },
    'the difference is shown',
    { everyMs: 50 },
  );
  assert.equal(most, 7);
  await atRest(system, skuId);
  await eventually(async () => (await shown()) === 0, 'nothing differs again');
});

test('a figure that is no number closes one gate and no other', async () => {
  const [broken, other] = [await newSku(system, 10n), await newSku(system, 10n)];
  await system.redis.set(`{sku:${broken}}:avail`, 'many');
  await system.redis.set(`{sku:${other}}:avail`, '0');
  assert.equal(await atRest(system, broken), 10);
  assert.equal(await atRest(system, other), 10);
});

test('a key of another type closes one gate for a moment and keeps no other from being looked at', async () => {
  for (const key of ['meta', 'avail', 'buyers', 'pending', 'entries'] as const) {
    const [broken, other] = [await newSku(system, 10n), await newSku(system, 10n)];
    await system.redis.unlink(skuKeys(broken)[key]);
    await system.redis.rpush(skuKeys(broken)[key], 'not', 'ours');
    await system.redis.unlink(skuKeys(other).meta);
    assert.equal(await atRest(system, other), 10);
    const typeOf = (): Promise<string> => system.redis.type(skuKeys(broken)[key]);
    await eventually(async () => (await typeOf()) !== 'list', `${key} is made anew`);
    assert.equal(await atRest(system, broken), 10);
  }
});

test('a figure that moves is not a contradiction, one that stays is', () => {
  const contradictions = new Contradictions();
  const look = (gate: number, ledger: bigint, pendingOrders = 0): string =>
    contradictions.look(1n, { available: gate, pendingOrders }, ledger);
  const none = 'none';
  assert.deepEqual([look(5, 6n), look(5, 6n), look(5, 7n), look(5, 7n)], [none, none, none, none]);
  assert.equal(look(5, 7n), 'contradiction', 'the third look at the same two figures');
  assert.deepEqual([look(5, 6n), look(5, 6n), look(5, 6n, 1)], [none, none, none]);
  assert.deepEqual([look(5, 6n), look(5, 6n)], [none, none], 'pending orders begin anew');
  assert.deepEqual([look(0, 9n), look(0, 8n)], [none, 'contradiction'], 'sold out twice is enough');
  assert.deepEqual([look(4, 4n), look(0, 0n), look(0, 0n)], [none, none, none]);
});

test('a gate in use is suspected if it is behind by more than is pending at every one of ten looks', () => {
  const contradictions = new Contradictions();
  const look = (behind: number, pendingOrders: number, sold: number): string =>
    contradictions.look(1n, { available: 900 - sold - behind, pendingOrders }, BigInt(900 - sold));
  const ten = (behind: number): string[] =>
    Array.from({ length: 10 }, (_, index) => look(behind, 3, index * 10));
  assert.deepEqual(new Set(ten(3)), new Set(['none']), 'three are pending');
  assert.equal(ten(5).at(-1), 'suspect');
  assert.equal(ten(-2).at(-1), 'suspect', 'nothing makes a gate that is too high');
  const broken = Array.from({ length: 9 }, () => look(5, 3, 0));
  assert.deepEqual(new Set([...broken, look(0, 3, 0), look(5, 3, 0)]), new Set(['none']));
});

test('users with nothing are known to the gate or not, users with something must be known exactly', () => {
  const wrong = [
    [undefined, 1],
    [undefined, 0],
    [2, 1],
    [0, 1],
    [1, 0],
    [1, undefined],
  ] as const;
  for (const [gate, ledger] of wrong) assert(isBuyerWrong(gate, ledger), `${gate} ${ledger}`);
  const right = [
    [1, 1],
    [0, 0],
    [0, undefined],
    [undefined, undefined],
  ] as const;
  for (const [gate, ledger] of right) assert(!isBuyerWrong(gate, ledger), `${gate} ${ledger}`);
});
