import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  decidePost,
  type ExistingHold,
  type PostedOrder,
  type PostResult,
  type PostState,
} from '../../services/stock/decide-post.ts';
import { type HoldState, holdState } from '../../services/stock/hold-states.ts';

interface Case {
  readonly name: string;
  readonly lines: [sku: bigint, units: number][];
  readonly orderId?: bigint;
  readonly epochs?: (number | undefined)[];
  readonly holds?: (Partial<ExistingHold> & { skuId: bigint; state: HoldState })[];
  readonly expected: string;
}

const skus = new Map(
  [
    { skuId: 1n, unitPriceMinor: 100n, currency: 'USD', available: 5n, epoch: 3n },
    { skuId: 2n, unitPriceMinor: 200n, currency: 'USD', available: 2n, epoch: 1n },
    { skuId: 3n, unitPriceMinor: 300n, currency: 'EUR', available: 9n, epoch: 1n },
  ].map((sku) => [sku.skuId, sku]),
);
const watermark = 1_000n;
const busy: ReadonlySet<bigint> = new Set();

function posted({ lines, orderId = 2_000n, epochs }: Case): PostedOrder {
  const reservation = {
    ...{ orderId, userId: 7n, requestId: 'r', fingerprint: Buffer.alloc(16) },
    lines: lines.map(([skuId, quantity]) => ({ skuId, quantity })),
  };
  return { reservation, epochs: epochs ?? lines.map(() => 3) };
}

function hold(orderId: bigint, more: NonNullable<Case['holds']>[number]): ExistingHold {
  return {
    ...{ orderId, userId: 7n, requestId: 'r', units: 1 },
    ...{ unitPriceMinor: 50n, currency: 'USD' },
    ...more,
  };
}

function told(result: PostResult): string {
  if (result.kind === 'RESERVED') {
    const prices = result.prices.map(({ currency, minorUnits }) => `${minorUnits} ${currency}`);
    return `${result.before ? 'held before' : 'reserved'} at ${prices.join(', ')}`;
  }
  return 'skuId' in result ? `${result.kind} ${result.skuId}` : result.kind;
}

const { HELD, SOLD, RELEASED, RESTOCKED, FENCED } = holdState;

const cases: Case[] = [
  { name: 'a new order that fits', lines: [[1n, 5]], expected: 'reserved at 100 USD' },
  {
    name: 'two SKUs',
    lines: [
      [1n, 1],
      [2n, 2],
    ],
    expected: 'reserved at 100 USD, 200 USD',
  },
  { name: 'one unit too many', lines: [[1n, 6]], expected: 'SOLD_OUT 1' },
  {
    name: 'the second SKU short',
    lines: [
      [1n, 1],
      [2n, 3],
    ],
    expected: 'SOLD_OUT 2',
  },
  { name: 'an older epoch', lines: [[1n, 1]], epochs: [2], expected: 'STOCK_NOT_LOADED 1' },
  { name: 'a newer epoch', lines: [[1n, 1]], epochs: [4], expected: 'reserved at 100 USD' },
  { name: 'no epoch', lines: [[1n, 1]], epochs: [undefined], expected: 'reserved at 100 USD' },
  {
    ...{
      name: 'an older epoch of the second SKU',
      lines: [
        [2n, 1],
        [3n, 1],
      ],
      epochs: [1, 0],
    },
    expected: 'STOCK_NOT_LOADED 3',
  },
  {
    name: 'currencies that differ',
    lines: [
      [1n, 1],
      [3n, 1],
    ],
    expected: 'CURRENCIES_DIFFER',
  },
  {
    name: 'a SKU that does not exist',
    lines: [
      [1n, 1],
      [4n, 1],
    ],
    expected: 'NOT_FOUND 4',
  },
  { name: 'an id at the watermark', lines: [[1n, 1]], orderId: watermark, expected: 'DEAD' },
  {
    ...{ name: 'an id above the watermark', lines: [[1n, 1]], orderId: watermark + 1n },
    expected: 'reserved at 100 USD',
  },
  {
    ...{ name: 'a hold below the watermark', lines: [[1n, 1]], orderId: 5n },
    ...{ holds: [{ skuId: 1n, state: HELD }], expected: 'held before at 50 USD' },
  },
  {
    ...{ name: 'a hold whatever the epoch', lines: [[1n, 1]], epochs: [0] },
    ...{ holds: [{ skuId: 1n, state: HELD }], expected: 'held before at 50 USD' },
  },
  {
    ...{ name: 'a hold that was sold', lines: [[1n, 1]] },
    ...{ holds: [{ skuId: 1n, state: SOLD }], expected: 'held before at 50 USD' },
  },
  {
    ...{ name: 'a hold that was released', lines: [[1n, 1]] },
    ...{ holds: [{ skuId: 1n, state: RELEASED }], expected: 'DEAD' },
  },
  {
    ...{ name: 'a hold that was restocked', lines: [[1n, 1]] },
    ...{ holds: [{ skuId: 1n, state: RESTOCKED }], expected: 'DEAD' },
  },
  {
    ...{ name: 'a fence', lines: [[1n, 1]] },
    ...{ holds: [{ skuId: 1n, state: FENCED, units: 0 }], expected: 'DEAD' },
  },
  {
    ...{
      name: 'a fence at one of two SKUs',
      lines: [
        [1n, 1],
        [2n, 1],
      ],
    },
    ...{ holds: [{ skuId: 1n, state: FENCED, units: 0 }], expected: 'DEAD' },
  },
  {
    ...{ name: 'a fence of an unknown request', lines: [[1n, 1]] },
    holds: [{ skuId: 1n, state: FENCED, units: 0, userId: 0n, requestId: '' }],
    expected: 'DEAD',
  },
  {
    ...{ name: "another user's hold", lines: [[1n, 1]] },
    ...{ holds: [{ skuId: 1n, state: HELD, userId: 8n }], expected: 'ID_TAKEN' },
  },
  {
    ...{ name: "another user's hold of another SKU", lines: [[1n, 1]] },
    ...{ holds: [{ skuId: 2n, state: HELD, userId: 8n }], expected: 'ID_TAKEN' },
  },
  {
    ...{ name: "another request's released hold", lines: [[1n, 1]] },
    ...{ holds: [{ skuId: 1n, state: RELEASED, requestId: 's' }], expected: 'ID_TAKEN' },
  },
  {
    ...{ name: 'a hold of other units', lines: [[1n, 2]] },
    ...{ holds: [{ skuId: 1n, state: HELD, units: 1 }], expected: 'ID_TAKEN' },
  },
];

for (const each of cases) {
  test(`a post of ${each.name}: ${each.expected}`, () => {
    const order = posted(each);
    const { orderId } = order.reservation;
    const holds = each.holds
      ? new Map([[orderId, each.holds.map((more) => hold(orderId, more))]])
      : new Map();
    const decision = decidePost([order], { watermark, skus, busy, holds });
    assert.deepEqual(decision.results.map(told), [each.expected]);
    const isNew = each.expected.startsWith('reserved');
    assert.deepEqual(decision.inserts, isNew ? [0] : [], 'only new orders are inserted');
    const units = isNew ? each.lines.map(([skuId, count]) => [skuId, BigInt(count)] as const) : [];
    assert.deepEqual(decision.taken, new Map(units));
  });
}

test('the orders of a batch share what is there, in their order, each wholly or not at all', () => {
  const state: PostState = { watermark, skus, busy, holds: new Map() };
  const orders = [
    posted({ name: '', expected: '', orderId: 2_001n, lines: [[1n, 4]] }),
    posted({
      name: '',
      expected: '',
      orderId: 2_002n,
      lines: [
        [1n, 2],
        [2n, 1],
      ],
    }),
    posted({
      name: '',
      expected: '',
      orderId: 2_003n,
      lines: [
        [1n, 1],
        [2n, 2],
      ],
    }),
    posted({ name: '', expected: '', orderId: 2_004n, lines: [[1n, 1]] }),
  ];
  const { results, inserts, taken } = decidePost(orders, state);
  assert.deepEqual(results.map(told), [
    ...['reserved at 100 USD', 'SOLD_OUT 1', 'reserved at 100 USD, 200 USD', 'SOLD_OUT 1'],
  ]);
  assert.deepEqual(inserts, [0, 2]);
  assert.deepEqual(
    taken,
    new Map([
      [1n, 5n],
      [2n, 2n],
    ]),
  );
});

test('an order of a SKU whose row is locked is left as it is, whatever it has, and takes nothing from the others', () => {
  const state: PostState = {
    ...{
      watermark,
      skus: new Map([[1n, skus.get(1n) as NonNullable<ReturnType<typeof skus.get>>]]),
    },
    busy: new Set([2n]),
    holds: new Map([[2_003n, [hold(2_003n, { skuId: 2n, state: holdState.HELD })]]]),
  };
  const orders = [
    posted({ name: '', expected: '', orderId: 2_001n, lines: [[1n, 3]] }),
    posted({
      name: '',
      expected: '',
      orderId: 2_002n,
      lines: [
        [1n, 2],
        [2n, 1],
      ],
    }),
    posted({ name: '', expected: '', orderId: 2_003n, lines: [[2n, 1]] }),
    posted({ name: '', expected: '', orderId: 2_004n, lines: [[1n, 2]] }),
  ];
  const { results, inserts } = decidePost(orders, state);
  assert.deepEqual(
    results.map(({ kind }) => kind),
    ['RESERVED', 'BUSY', 'BUSY', 'RESERVED'],
  );
  assert.deepEqual(inserts, [0, 3]);
});

test('copies of one order in a batch are inserted once, and a stranger under its id is told so', () => {
  const order = posted({ name: '', expected: '', lines: [[1n, 1]] });
  const stranger = { ...order, reservation: { ...order.reservation, userId: 8n } };
  const state: PostState = { watermark, skus, busy, holds: new Map() };
  const { results, inserts } = decidePost([order, order, stranger], state);
  assert.deepEqual(results.map(told), [
    'reserved at 100 USD',
    'held before at 100 USD',
    'ID_TAKEN',
  ]);
  assert.deepEqual(inserts, [0]);
});
