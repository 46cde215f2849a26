import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { type ClientError, createChannel, createClient, Metadata, Status } from 'nice-grpc';
import { ErrorInfo } from 'nice-grpc-error-details';
import { StockAdminServiceDefinition } from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { reasonOf } from '../../services/runtime/refusals.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { compose } from '../../services/stock/compose.ts';
import { atRest, newSku, reservation, reserve, startStockSystem } from './support.ts';

const system = await startStockSystem('admin');
after(() => system.close());
const { admin, stock } = system;
const unitPrice = { currencyCode: 'USD', minorUnits: 500n };

async function reasonThrown(call: Promise<unknown>): Promise<string> {
  try {
    await call;
  } catch (error) {
    const { extra } = error as { extra?: { $type: string; reason?: string }[] };
    const info = extra?.find(({ $type }) => $type === ErrorInfo.$type);
    return info?.reason ?? `${error}`;
  }
  return 'nothing was thrown';
}

async function toldAt(skuId: bigint): Promise<string> {
  const outcome = await reserve(system, reservation([skuId]));
  return outcome.$case === 'refused' ? reasonOf(outcome.value.reason) : outcome.$case;
}

test('a SKU that is created can be bought at once, and creating it again changes nothing', async () => {
  const request = { skuId: 50_000n, title: 'Schuhe 鞋', unitPrice, supplied: 3n, limitPerUser: 2 };
  const { sku } = await admin.createSku(request);
  assert.equal(sku?.title, 'Schuhe 鞋');
  assert.deepEqual([sku?.supplied, sku?.available, sku?.held, sku?.sold], [3n, 3n, 0n, 0n]);
  assert.equal(await toldAt(50_000n), 'reserved');
  await admin.updateSku({ skuId: 50_000n, title: 'renamed' });
  const again = await admin.createSku(request);
  assert.equal(again.sku?.title, 'renamed', 'it is answered as it is now');
  assert.equal(again.sku?.available, 2n);
  const other = admin.createSku({ ...request, supplied: 4n });
  assert.equal(await reasonThrown(other), 'INVALID_REQUEST');
});

test('settings reach the gate before the update is answered, each with a new version', async () => {
  const skuId = await newSku(system, 10n);
  const past = new Date(Date.now() - 60_000);
  const future = new Date(Date.now() + 3_600_000);
  const told: string[] = [];
  for (const change of [
    { paused: true },
    { paused: false },
    { openTime: future },
    { clearOpenTime: true, closeTime: past },
    { clearCloseTime: true },
  ]) {
    await admin.updateSku({ skuId, ...change });
    told.push(await toldAt(skuId));
  }
  assert.deepEqual(told, ['SKU_PAUSED', 'reserved', 'SALE_NOT_STARTED', 'SALE_ENDED', 'reserved']);
  const { sku } = await stock.getSku({ skuId });
  assert.equal(sku?.settingsVersion, 6n);
  await admin.updateSku({ skuId, paused: false });
  assert.equal((await stock.getSku({ skuId })).sku?.settingsVersion, 6n, 'nothing changed');
});

test('settings that could not be copied are copied by the check of the gates', async () => {
  const skuId = await newSku(system, 10n);
  await system.pool.query(
    'UPDATE skus SET paused = 1, settings_version = settings_version + 1 WHERE sku_id = ?',
    [skuId],
  );
  const { eventually } = await import('../support/eventually.ts');
  await eventually(async () => (await toldAt(skuId)) === 'SKU_PAUSED', 'the gate is paused');
});

test('a new price holds for new orders, and those before keep theirs', async () => {
  const skuId = await newSku(system, 10n);
  const order = reservation([skuId]);
  await reserve(system, order);
  await admin.updateSku({ skuId, unitPrice: { currencyCode: 'USD', minorUnits: 7n } });
  const price = async (which: typeof order): Promise<bigint | undefined> => {
    const outcome = await reserve(system, which);
    if (outcome.$case !== 'reserved') return undefined;
    return outcome.value.lines[0]?.unitPrice?.minorUnits;
  };
  assert.equal(await price(order), 1_999n);
  assert.equal(await price(reservation([skuId])), 7n);
});

test('an adjustment counts once however often it is sent, at once and later', async () => {
  const skuId = await newSku(system, 10n);
  const request = { skuId, delta: 5n, requestId: `more ${skuId}` };
  const answers = await Promise.all(Array.from({ length: 10 }, () => admin.adjustStock(request)));
  assert.equal(answers.filter(({ replayed }) => !replayed).length, 1);
  const again = await admin.adjustStock(request);
  assert.equal(again.replayed, true);
  assert.equal(again.sku?.supplied, 15n);
  const { gate } = await admin.getStockLayers({ skuId });
  assert.equal(gate?.available, 15n, 'the gate has it when it is answered');
  const other = admin.adjustStock({ ...request, delta: 6n });
  assert.equal(await reasonThrown(other), 'IDEMPOTENCY_KEY_REUSED');
});

test('only units that are available can be recalled', async () => {
  const skuId = await newSku(system, 5n);
  await reserve(system, reservation([skuId], { quantity: 3 }));
  const recall = (delta: bigint): Promise<unknown> =>
    admin.adjustStock({ skuId, delta, requestId: `recall ${delta} ${skuId}` });
  assert.equal(await reasonThrown(recall(-3n)), 'SOLD_OUT');
  await recall(-2n);
  assert.equal(await toldAt(skuId), 'SOLD_OUT');
  assert.equal(await atRest(system, skuId), 0);
  const { sku } = await stock.getSku({ skuId });
  assert.deepEqual([sku?.supplied, sku?.held], [3n, 3n]);
});

test('units added in the middle of a sale are sold', async () => {
  const skuId = await newSku(system, 1n);
  assert.equal(await toldAt(skuId), 'reserved');
  assert.equal(await toldAt(skuId), 'SOLD_OUT');
  await admin.adjustStock({ skuId, delta: 1n, requestId: `one more ${skuId}` });
  assert.equal(await toldAt(skuId), 'reserved');
});

test('the layers of a SKU are shown side by side', async () => {
  const skuId = await newSku(system, 5n);
  await reserve(system, reservation([skuId]));
  await atRest(system, skuId);
  const { gate, ledger } = await admin.getStockLayers({ skuId });
  assert.deepEqual(gate, {
    ...{ loaded: true, available: 4n, pendingOrders: 0n, oldestPendingAgeMs: 0n },
    ...{ epoch: ledger?.epoch, buyers: 1n, state: 'open' },
  });
  assert.equal(ledger?.held, 1n);
});

test('display stock is read for many SKUs, loaded or not', async () => {
  const [first, second] = [await newSku(system, 5n), await newSku(system, 6n)];
  await admin.updateSku({ skuId: second, paused: true });
  const { stocks } = await stock.batchGetStock({ skuIds: [second, 777_777n, first] });
  assert.deepEqual(stocks, [
    { skuId: second, loaded: true, available: 6n, paused: true },
    { skuId: 777_777n, loaded: false, available: 0n, paused: false },
    { skuId: first, loaded: true, available: 5n, paused: false },
  ]);
});

test('SKUs are listed by ascending id, page by page, each once', async () => {
  for (let count = 0; count < 5; count += 1) await newSku(system, 1n);
  const seen: bigint[] = [];
  let pageToken = '';
  do {
    const page = await stock.listSkus({ pageSize: 2, pageToken });
    assert(page.skus.length <= 2);
    assert(page.serverTime instanceof Date);
    seen.push(...page.skus.map(({ skuId }) => skuId));
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  const [rows] = await system.pool.query('SELECT sku_id FROM skus ORDER BY sku_id');
  assert.deepEqual(
    seen,
    (rows as { sku_id: string }[]).map((row) => BigInt(row.sku_id)),
  );
});

const noToken = Metadata();
const buyerToken = createTokens({ secret: demoTokenSecret }).sign({ userId: 5n, ttlSeconds: 60 });

for (const [name, metadata, code] of [
  ['no token', noToken, Status.UNAUTHENTICATED],
  ['a forged token', Metadata({ authorization: 'Bearer forged' }), Status.UNAUTHENTICATED],
  [
    "a buyer's token",
    Metadata({ authorization: `Bearer ${buyerToken.token}` }),
    Status.PERMISSION_DENIED,
  ],
] as const) {
  test(`operators' work is refused with ${name}`, async () => {
    const channel = createChannel(`127.0.0.1:${system.port}`);
    const client = createClient(StockAdminServiceDefinition, channel);
    try {
      await assert.rejects(
        client.adjustStock({ skuId: 1n, delta: 1n, requestId: 'x' }, { metadata }),
        (error: ClientError) => error.code === code,
      );
    } finally {
      channel.close();
    }
  });
}

test('a configuration with several faults names all of them', async () => {
  const { readConfig } = await import('../../services/stock/config.ts');
  assert.throws(
    () =>
      readConfig({
        SLUICE_STOCK_PORT: 'x',
        SLUICE_SETTLE_AGE_MS: '5',
        SLUICE_STOCK_RECHECK_AGE_SECONDS: '0',
        SLUICE_REDIS_URL: 'y',
      }),
    (error: Error) =>
      [
        'SLUICE_STOCK_PORT',
        'SLUICE_SETTLE_AGE_MS',
        'SLUICE_STOCK_RECHECK_AGE_SECONDS',
        'SLUICE_REDIS_URL',
        'SLUICE_TOKEN_SECRET',
      ].every((name) => error.message.includes(name)),
  );
  const config = readConfig({ SLUICE_DEMO: '1', SLUICE_FAILPOINTS: 'nonsense' });
  await assert.rejects(compose(config), /SLUICE_FAILPOINTS/);
});
