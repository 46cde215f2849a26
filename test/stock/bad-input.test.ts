import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { BadRequest } from 'nice-grpc-error-details';
import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import { reasonOf } from '../../services/runtime/refusals.ts';
import { newSku, reservation, reserve, startStockSystem } from './support.ts';

const system = await startStockSystem('bad_input');
after(() => system.close());
const { admin, stock } = system;
const skuId = await newSku(system, 100n);
const unitPrice = { currencyCode: 'USD', minorUnits: 5n };
const goodSku = { skuId: 60_000n, title: 'good', unitPrice, supplied: 1n };
const year = (number: number): Date => new Date(Date.UTC(number, 0, 1));

/** Each: what is wrong, the call, and the fields that the violations name. */
const calls: [name: string, call: () => Promise<unknown>, fields: string[]][] = [
  ['no SKU id', () => stock.getSku({}), ['sku_id']],
  ['a negative SKU id', () => stock.getSku({ skuId: -1n }), ['sku_id']],
  ['a page too large', () => stock.listSkus({ pageSize: 101 }), ['page_size']],
  ['a negative page', () => stock.listSkus({ pageSize: -1 }), ['page_size']],
  ['a made-up page token', () => stock.listSkus({ pageToken: 'abc' }), ['page_token']],
  ['no SKUs to show', () => stock.batchGetStock({ skuIds: [] }), ['sku_ids']],
  [
    'too many SKUs to show',
    () => stock.batchGetStock({ skuIds: Array.from({ length: 501 }, () => 1n) }),
    ['sku_ids'],
  ],
  ['a SKU 0 to show', () => stock.batchGetStock({ skuIds: [1n, 0n] }), ['sku_ids[1]']],
  ['no reservations', () => stock.reserveStock({ reservations: [] }), ['reservations']],
  [
    'too many reservations',
    () => stock.reserveStock({ reservations: Array.from({ length: 501 }, () => ({})) }),
    ['reservations'],
  ],
  ['no releases', () => stock.releaseStock({ releases: [] }), ['releases']],
  [
    'a release with everything wrong',
    () =>
      stock.releaseStock({
        releases: [
          { orderId: 1n, userId: 1n },
          { orderId: 0n, userId: -1n, requestId: 'x'.repeat(300), skuIds: [-5n] },
        ],
      }),
    [
      ...['releases[1].order_id', 'releases[1].sku_ids[0]', 'releases[1].user_id'],
      'releases[1].request_id',
    ],
  ],
  ['an empty SKU', () => admin.createSku({}), ['sku_id', 'title', 'unit_price']],
  [
    'a SKU with everything wrong',
    () =>
      admin.createSku({
        ...{ skuId: -1n, title: 'x'.repeat(201), supplied: -1n, limitPerUser: -1 },
        unitPrice: { currencyCode: 'usd', minorUnits: -1n },
        ...{ openTime: year(2031), closeTime: year(2030) },
      }),
    [
      ...['sku_id', 'title', 'unit_price.currency_code', 'unit_price.minor_units'],
      ...['supplied', 'limit_per_user', 'close_time'],
    ],
  ],
  ['a blank title', () => admin.createSku({ ...goodSku, title: '   ' }), ['title']],
  [
    'too much supply',
    () => admin.createSku({ ...goodSku, supplied: 10n ** 9n + 1n }),
    ['supplied'],
  ],
  [
    'a huge price',
    () => admin.createSku({ ...goodSku, unitPrice: { ...unitPrice, minorUnits: 10n ** 12n + 1n } }),
    ['unit_price.minor_units'],
  ],
  [
    'a time before 2000',
    () => admin.createSku({ ...goodSku, openTime: year(1990) }),
    ['open_time'],
  ],
  [
    'an end before the stored opening',
    async () => {
      await admin.createSku({ ...goodSku, openTime: year(2030) });
      await admin.updateSku({ skuId: goodSku.skuId, closeTime: year(2029) });
    },
    ['close_time'],
  ],
  [
    'an update that contradicts itself',
    () =>
      admin.updateSku({
        ...{ skuId, openTime: year(2030), clearOpenTime: true },
        ...{ closeTime: year(2031), clearCloseTime: true, limitPerUser: 1_000_001 },
      }),
    ['limit_per_user', 'clear_open_time', 'clear_close_time'],
  ],
  [
    'an adjustment by nothing',
    () => admin.adjustStock({ skuId, delta: 0n, requestId: '' }),
    ['delta', 'request_id'],
  ],
  [
    'an adjustment by too much',
    () => admin.adjustStock({ skuId, delta: -(10n ** 9n) - 1n, requestId: 'é' }),
    ['delta', 'request_id'],
  ],
  ['a rebuild of nothing', () => admin.rebuildStock({}), ['sku_id']],
  ['the layers of nothing', () => admin.getStockLayers({}), ['sku_id']],
];

for (const [name, call, fields] of calls) {
  test(`${name} is refused, naming ${fields.join(', ')}`, async () => {
    await assert.rejects(call, (error: { extra?: { $type: string }[] }) => {
      const details = error.extra?.find(({ $type }) => $type === BadRequest.$type);
      const violations = (details as BadRequest | undefined)?.fieldViolations ?? [];
      assert.deepEqual(
        violations.map(({ field }) => field),
        fields,
        String(error),
      );
      return true;
    });
  });
}

const entries: [name: string, wrong: Partial<StockReservation>, field: string][] = [
  ['order id 0', { orderId: 0n }, 'order_id'],
  ['a negative order id', { orderId: -5n }, 'order_id'],
  ['user id 0', { userId: 0n }, 'user_id'],
  ['an empty request id', { requestId: '' }, 'request_id'],
  ['a request id of 129 characters', { requestId: 'x'.repeat(129) }, 'request_id'],
  ['a request id outside ASCII', { requestId: 'é' }, 'request_id'],
  ['a fingerprint of 15 bytes', { fingerprint: Buffer.alloc(15) }, 'fingerprint'],
  ['no lines', { lines: [] }, 'lines'],
  [
    '21 lines',
    { lines: Array.from({ length: 21 }, (_, at) => ({ skuId: BigInt(at + 1), quantity: 1 })) },
    'lines',
  ],
  ['quantity 0', { lines: [{ skuId, quantity: 0 }] }, 'lines[0].quantity'],
  ['a negative quantity', { lines: [{ skuId, quantity: -1 }] }, 'lines[0].quantity'],
  ['a huge quantity', { lines: [{ skuId, quantity: 20_001 }] }, 'lines[0].quantity'],
  ['SKU 0', { lines: [{ skuId: 0n, quantity: 1 }] }, 'lines[0].sku_id'],
  ['a SKU twice', { lines: [1, 1].map((quantity) => ({ skuId, quantity })) }, 'lines[1].sku_id'],
  [
    'descending SKUs',
    { lines: [skuId + 1n, skuId].map((id) => ({ skuId: id, quantity: 1 })) },
    'lines[1].sku_id',
  ],
];

for (const [name, wrong, field] of entries) {
  test(`a reservation with ${name} is refused, naming ${field}`, async () => {
    const outcome = await reserve(system, reservation([skuId], wrong));
    assert.equal(outcome.$case, 'refused');
    if (outcome.$case !== 'refused') return;
    assert.equal(reasonOf(outcome.value.reason), 'INVALID_REQUEST');
    assert(outcome.value.message.startsWith(`${field}: `), outcome.value.message);
  });
}

test('after all of that nothing is held', async () => {
  const { sku } = await stock.getSku({ skuId });
  assert.deepEqual([sku?.available, sku?.held], [100n, 0n]);
});
