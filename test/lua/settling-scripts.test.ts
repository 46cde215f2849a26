import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import type { ClosedGate } from '../../services/stock/gate.ts';
import { readGates } from '../../services/stock/gate-view.ts';
import { skuKeys } from '../../services/stock/redis-keys.ts';
import { install, nextSku, order, reserve, settings, startGate } from './support.ts';

const under = await startGate();
after(() => under.close());
const { gate } = under;
const { redis } = under.connection;

async function stateOf(skuId: bigint): Promise<Record<string, unknown>> {
  const keys = skuKeys(skuId);
  // Field 0 is no buyer; every installed gate has it.
  const { 0: _, ...buyers } = await redis.hgetall(keys.buyers);
  return {
    available: await redis.get(keys.avail),
    buyers,
    pending: await redis.zcard(keys.pending),
    entries: await redis.hlen(keys.entries),
  };
}

test('settle_pending removes the entries it is given and moves no units', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const [first, second] = [order(skuId), order(skuId)];
  await reserve(under, skuId, [first, second]);
  await gate.settle(skuId, [first.orderId, 4n]);
  assert.deepEqual(await stateOf(skuId), {
    available: '8',
    buyers: { 1: '2' },
    pending: 1,
    entries: 1,
  });
});

test('fence_pending credits a pending order once and forgets its request', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const fenced = order(skuId, { quantity: 4 });
  await reserve(under, skuId, [fenced]);
  assert.deepEqual(await gate.creditFenced(skuId, [fenced]), [true]);
  assert.deepEqual(await gate.creditFenced(skuId, [fenced]), [false]);
  assert.deepEqual(await stateOf(skuId), {
    available: '10',
    buyers: { 1: '0' },
    pending: 0,
    entries: 0,
  });
  assert.equal(await redis.exists(`${skuKeys(skuId).requests}1:${fenced.requestId}`), 0);
});

test('fence_pending leaves the record of another order of the same request', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  await reserve(under, skuId, [first]);
  await gate.creditFenced(skuId, [{ ...first, orderId: 5n }]);
  assert.equal(await redis.exists(`${skuKeys(skuId).requests}1:${first.requestId}`), 1);
});

test('fence_pending does not make a missing gate look installed', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  await reserve(under, skuId, [first]);
  await redis.del(skuKeys(skuId).avail);
  assert.deepEqual(await gate.creditFenced(skuId, [first]), [false]);
  assert.equal(await redis.exists(skuKeys(skuId).avail), 0);
});

test('release_stock credits under the epoch of the gate and settles what was pending', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n, { epoch: 3n });
  const first = order(skuId, { quantity: 2 });
  await reserve(under, skuId, [first]);
  const credit = { orderId: first.orderId, userId: 1n, units: 2 };
  assert.equal(await gate.release(skuId, 4n, [credit]), 'GATE_OLDER');
  assert.equal(await gate.release(skuId, 2n, [credit]), 'GATE_NEWER');
  assert.equal((await stateOf(skuId)).available, '8', 'nothing was credited');
  assert.equal(await gate.release(skuId, 3n, [credit]), 'CREDITED');
  assert.deepEqual(await stateOf(skuId), {
    available: '10',
    buyers: { 1: '0' },
    pending: 0,
    entries: 0,
  });
  assert.deepEqual(await gate.creditFenced(skuId, [first]), [false], 'and not a second time');
});

test('release_stock leaves a gate alone that is being installed, and comes again if it may be too late for it', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n, { epoch: 3n });
  const credit = { orderId: 1n, userId: 1n, units: 2 };
  const closed = (await gate.close(skuId, 'one', 60_000)) as ClosedGate;
  // Of the ledger as it is behind the release: the user has bought once more.
  await gate.installBuyers(skuId, closed, { first: true, fields: ['1', '2'] });
  assert.equal(await gate.release(skuId, 2n, [credit]), 'GATE_NEWER');
  assert.equal(await gate.release(skuId, 3n, [credit]), 'NOT_LOADED', 'it was before the read');
  assert.equal(await gate.release(skuId, 4n, [credit]), 'GATE_OLDER', 'it was behind the read');
  await gate.install(skuId, closed, { epoch: 4n, available: 8n, settings });
  assert.deepEqual((await stateOf(skuId)).buyers, { 1: '2' }, 'counted once');
  assert.equal(await gate.release(skuId, 4n, [credit]), 'CREDITED');
  assert.deepEqual(await stateOf(skuId), {
    available: '10',
    buyers: { 1: '0' },
    pending: 0,
    entries: 0,
  });
});

test('release_stock comes again to a missing gate that is being installed', async () => {
  const skuId = nextSku();
  const credit = { orderId: 1n, userId: 1n, units: 2 };
  const closed = (await gate.close(skuId, 'one', 60_000)) as ClosedGate;
  assert.equal(await gate.release(skuId, 4n, [credit]), 'GATE_OLDER');
  await gate.installBuyers(skuId, closed, { first: true, fields: ['1', '2'] });
  await gate.install(skuId, closed, { epoch: 4n, available: 8n, settings });
  assert.equal(await gate.release(skuId, 4n, [credit]), 'CREDITED');
  assert.equal((await stateOf(skuId)).available, '10');
});

test('release_stock and adjust_stock credit nothing where there is no gate', async () => {
  const skuId = nextSku();
  const credit = { orderId: 1n, userId: 1n, units: 2 };
  assert.equal(await gate.release(skuId, 1n, [credit]), 'NOT_LOADED');
  assert.equal(await gate.adjust(skuId, 1n, 5n), 'NOT_LOADED');
  assert.equal(await redis.exists(skuKeys(skuId).avail), 0);
});

test('adjust_stock adds and recalls under the epoch of the gate', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n, { epoch: 3n });
  assert.equal(await gate.adjust(skuId, 4n, 5n), 'GATE_OLDER');
  assert.equal(await gate.adjust(skuId, 2n, 5n), 'GATE_NEWER');
  assert.equal(await gate.adjust(skuId, 3n, 5n), 'CREDITED');
  assert.equal(await gate.adjust(skuId, 3n, -20n), 'CREDITED');
  assert.equal((await stateOf(skuId)).available, '-5');
  assert.deepEqual(await reserve(under, skuId, [order(skuId)]), ['SOLD_OUT']);
});

test('close_gate respects a fresh closing of another process and takes over a stale one', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  assert(await gate.close(skuId, 'one', 60_000));
  assert.equal(await gate.close(skuId, 'two', 60_000), undefined);
  assert(await gate.close(skuId, 'one', 60_000), 'its own closing it may repeat');
  assert(
    await gate.close(skuId, 'one:again', 60_000),
    'also under another token of the same owner',
  );
  assert(await gate.close(skuId, 'one', 60_000));
  await redis.hset(skuKeys(skuId).meta, 'closing_ms', '1000');
  assert(await gate.close(skuId, 'two', 60_000));
});

test('close_gate closes a missing gate without creating its figure', async () => {
  const skuId = nextSku();
  assert(await gate.close(skuId, 'one', 60_000));
  const [view] = await readGates(under.connection, [skuId]);
  assert.equal(view?.state, 'closing');
  assert.equal(view?.available, undefined);
});

test('close_gate removes keys of another type, so that the gate can be installed', async () => {
  for (const key of ['meta', 'avail', 'buyers', 'pending', 'entries'] as const) {
    const skuId = nextSku();
    await install(under, skuId, 10n);
    await redis.del(skuKeys(skuId)[key]);
    await redis.rpush(skuKeys(skuId)[key], 'not', 'ours');
    await install(under, skuId, 7n);
    assert.deepEqual(await reserve(under, skuId, [order(skuId)]), ['ADMITTED']);
    assert.equal((await stateOf(skuId)).available, '6');
  }
});

test('close_gate does nothing after its deadline', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const { connection } = under;
  const slow = Object.create(connection, { redisNowMs: { value: () => 1_000 } });
  const { Gate } = await import('../../services/stock/gate.ts');
  const late = new Gate(slow as typeof connection, {} as never, 10);
  assert.equal(await late.close(skuId, 'one', 60_000), undefined);
  const [view] = await readGates(connection, [skuId]);
  assert.equal(view?.state, 'open');
});

test('only the holder of the token installs, and only on the server that was closed', async () => {
  const skuId = nextSku();
  const closed = (await gate.close(skuId, 'one', 60_000)) as ClosedGate;
  const ledger = { epoch: 7n, available: 42n, settings };
  for (const wrong of [{ token: 'two' }, { runId: 'other' }, { replid: 'other' }]) {
    const stranger = { ...closed, ...wrong };
    const chunk = { first: true, fields: ['1', '5'] };
    assert.equal(await gate.installBuyers(skuId, stranger, chunk), false);
    assert.equal(await gate.install(skuId, stranger, ledger), false);
  }
  assert.deepEqual(await stateOf(skuId), { available: null, buyers: {}, pending: 0, entries: 0 });
  assert.equal(await gate.installBuyers(skuId, closed, { first: true, fields: ['1', '5'] }), true);
  assert.equal(await gate.installBuyers(skuId, closed, { first: false, fields: ['2', '0'] }), true);
  assert.equal(await gate.install(skuId, closed, ledger), true);
  assert.equal(await gate.install(skuId, closed, ledger), false, 'the token is used up');
  const [view] = await readGates(under.connection, [skuId]);
  assert.equal(view?.loaded, true);
  assert.equal(view?.epoch, 7n);
  assert.deepEqual((await stateOf(skuId)).buyers, { 1: '5', 2: '0' });
});

test('the first chunk of buyers removes those that were there, and an installation what was pending', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  await reserve(under, skuId, [order(skuId, { userId: 8n })]);
  await install(under, skuId, 9n, { buyers: ['3', '1'], epoch: 2n });
  assert.deepEqual(await stateOf(skuId), {
    available: '9',
    buyers: { 3: '1' },
    pending: 0,
    entries: 0,
  });
});

test('apply_settings takes only higher versions, and an installation keeps a higher one', async () => {
  const skuId = nextSku();
  assert.equal(await gate.applySettings(skuId, settings), 'NOT_LOADED');
  await install(under, skuId, 10n, { version: 3n });
  const paused = { ...settings, paused: true };
  assert.equal(await gate.applySettings(skuId, { ...paused, version: 3n }), 'NOT_NEWER');
  assert.equal(await gate.applySettings(skuId, { ...paused, version: 4n }), 'APPLIED');
  await install(under, skuId, 10n, { version: 3n });
  const [view] = await readGates(under.connection, [skuId]);
  assert.equal(view?.paused, true);
  assert.equal(view?.settingsVersion, 4n);
});

test('delete_request_records deletes only records that still name the order', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const [first, second] = [order(skuId), order(skuId)];
  await reserve(under, skuId, [first, second]);
  await gate.forgetRequests(skuId, [first, { ...second, orderId: 7n }, order(skuId)]);
  const { requests } = skuKeys(skuId);
  assert.equal(await redis.exists(`${requests}1:${first.requestId}`), 0);
  assert.equal(await redis.exists(`${requests}1:${second.requestId}`), 1);
});
