import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createBreaker } from '../../services/runtime/breaker.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createLog } from '../../services/runtime/log.ts';
import { Gate } from '../../services/stock/gate.ts';
import { knownFlag, reserveAnswer } from '../../services/stock/gate-scripts.ts';
import { skuKeys } from '../../services/stock/redis-keys.ts';
import { install, nextSku, order, reserve, startGate } from './support.ts';

const under = await startGate();
after(() => under.close());
const { gate } = under;
const { redis } = under.connection;
const log = createLog('test', 'silent');

async function availableAt(skuId: bigint): Promise<string | null> {
  return await redis.get(skuKeys(skuId).avail);
}

test('a gate that was never installed is not loaded', async () => {
  assert.deepEqual(await reserve(under, nextSku(), [order(1n)]), ['GATE_NOT_LOADED']);
});

test('units are taken with a record that expires, a pending entry and a buyer', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const taken = order(skuId, { quantity: 3, userId: 5n });
  assert.deepEqual(await reserve(under, skuId, [taken]), ['ADMITTED']);
  const keys = skuKeys(skuId);
  assert.equal(await availableAt(skuId), '7');
  assert.equal(await redis.hget(keys.buyers, '5'), '3');
  const record = `${keys.requests}5:${taken.requestId}`;
  assert.equal(await redis.get(record), `${taken.orderId}:${'07'.repeat(16)}`);
  const ttl = await redis.ttl(record);
  assert(ttl > 86_000 && ttl <= 86_400, String(ttl));
  assert.deepEqual(await redis.hgetall(keys.entries), {
    [String(taken.orderId)]: `3:5:${taken.requestId}`,
  });
  const admittedMs = Number(await redis.zscore(keys.pending, String(taken.orderId)));
  assert(Math.abs(admittedMs - under.connection.redisNowMs()) < 10_000);
});

test('a call whose deadline has passed by the time of Redis does nothing', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  assert.deepEqual(await reserve(under, skuId, [order(skuId)], { leftMs: -50 }), ['EXPIRED']);
  assert.equal(await availableAt(skuId), '10');
});

test('the same order again is let in without taking more', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const same = order(skuId);
  assert.deepEqual(await reserve(under, skuId, [same, same]), ['ADMITTED', 'ADMITTED_BEFORE']);
  assert.deepEqual(await reserve(under, skuId, [same]), ['ADMITTED_BEFORE']);
  assert.equal(await availableAt(skuId), '9');
});

test('the same request under another order id adopts the first, also within one batch', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  const copy = { ...first, orderId: first.orderId + 500n };
  const adopted = `adopt ${first.orderId}`;
  assert.deepEqual(await reserve(under, skuId, [first, copy]), ['ADMITTED', adopted]);
  assert.deepEqual(await reserve(under, skuId, [copy]), [adopted]);
  assert.equal(await availableAt(skuId), '9');
});

test('an order id above 2^53 is adopted without losing digits', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId, { orderId: 9_223_372_036_854_775_807n });
  await reserve(under, skuId, [first]);
  const copy = { ...first, orderId: 5n };
  assert.deepEqual(await reserve(under, skuId, [copy]), ['adopt 9223372036854775807']);
});

test("at a SKU that is not the order's lowest a record of another id is overwritten", async () => {
  const [low, high] = [nextSku(), nextSku()];
  await install(under, high, 10n);
  const lines = [low, high].map((skuId) => ({ skuId, quantity: 1 }));
  const first = order(high, { lines });
  const second = { ...first, orderId: first.orderId + 500n };
  assert.deepEqual(await reserve(under, high, [first]), ['ADMITTED']);
  assert.deepEqual(await reserve(under, high, [second]), ['ADMITTED']);
  const record = await redis.get(`${skuKeys(high).requests}1:${first.requestId}`);
  assert.equal(record?.split(':')[0], String(second.orderId));
  assert.equal(await availableAt(high), '8');
});

test('the same request id with other content is refused, whatever the order id', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  await reserve(under, skuId, [first]);
  const other = { ...first, fingerprint: Buffer.alloc(16, 9) };
  assert.deepEqual(await reserve(under, skuId, [other]), ['known KEY_REUSED']);
  assert.deepEqual(await reserve(under, skuId, [{ ...other, orderId: 3n }]), ['known KEY_REUSED']);
});

test('an order id that is pending for another user or request is taken', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  await reserve(under, skuId, [first]);
  const stranger = order(skuId, { orderId: first.orderId, userId: 2n });
  assert.deepEqual(await reserve(under, skuId, [stranger]), ['ID_TAKEN']);
  const another = order(skuId, { orderId: first.orderId });
  assert.deepEqual(await reserve(under, skuId, [another]), ['known ID_TAKEN']);
});

test('a pending order whose record was lost is let in again and takes nothing more', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  await reserve(under, skuId, [first]);
  await redis.del(`${skuKeys(skuId).requests}1:${first.requestId}`);
  assert.deepEqual(await reserve(under, skuId, [first]), ['ADMITTED_BEFORE']);
  assert.equal(await availableAt(skuId), '9');
});

test('a closing gate answers what it has seen and nothing else', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  await reserve(under, skuId, [first]);
  await under.gate.close(skuId, 'token', 0);
  const copy = { ...first, orderId: first.orderId + 500n };
  const answers = await reserve(under, skuId, [
    first,
    copy,
    order(skuId),
    order(skuId, { userId: 9n }),
  ]);
  const adopted = `adopt ${first.orderId}`;
  assert.deepEqual(answers, ['ADMITTED_BEFORE', adopted, 'known NOT_LOADED', 'NOT_LOADED']);
});

test('an open gate without its figure is not loaded, never sold out', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  await redis.del(skuKeys(skuId).avail);
  assert.deepEqual(await reserve(under, skuId, [order(skuId)]), ['NOT_LOADED']);
});

test('the window opens and closes by the time of Redis', async () => {
  const nowMs = Math.floor(under.connection.redisNowMs());
  const [early, late] = [nextSku(), nextSku()];
  await install(under, early, 10n, { openMs: nowMs + 60_000 });
  await install(under, late, 10n, { closeMs: nowMs - 1 });
  assert.deepEqual(await reserve(under, early, [order(early)]), ['NOT_STARTED']);
  assert.deepEqual(await reserve(under, late, [order(late)]), ['ENDED']);
  const open = nextSku();
  await install(under, open, 10n, { openMs: nowMs - 60_000, closeMs: nowMs + 60_000 });
  assert.deepEqual(await reserve(under, open, [order(open)]), ['ADMITTED']);
});

test('a paused SKU is refused, but what was seen before is answered', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  await reserve(under, skuId, [first]);
  await under.gate.applySettings(skuId, {
    ...{ version: 2n, openMs: undefined, closeMs: undefined, limitPerUser: 0 },
    ...{ paused: true, priceMinor: 1n, currency: 'USD' },
  });
  const answers = await reserve(under, skuId, [first, order(skuId, { userId: 9n })]);
  assert.deepEqual(answers, ['ADMITTED_BEFORE', 'PAUSED']);
});

test('the limit counts what the user has, in units, also within one batch', async () => {
  const skuId = nextSku();
  await install(under, skuId, 100n, { limitPerUser: 5, buyers: ['1', '2', '2', '5'] });
  const batch = [
    order(skuId, { quantity: 2 }),
    order(skuId, { quantity: 2 }),
    order(skuId, { quantity: 1 }),
    order(skuId, { userId: 2n }),
    order(skuId, { userId: 3n, quantity: 6 }),
    order(skuId, { userId: 3n, quantity: 5 }),
  ];
  assert.deepEqual(await reserve(under, skuId, batch), [
    ...['ADMITTED', 'known LIMIT', 'ADMITTED', 'known LIMIT', 'LIMIT', 'ADMITTED'],
  ]);
  assert.deepEqual(await redis.hgetall(skuKeys(skuId).buyers), { 0: '0', 1: '5', 2: '5', 3: '5' });
});

test('stock runs out in the order of the batch, and a smaller order may still fit', async () => {
  const skuId = nextSku();
  await install(under, skuId, 3n);
  const batch = [2, 2, 1, 1].map((quantity, at) =>
    order(skuId, { quantity, userId: BigInt(10 + at) }),
  );
  assert.deepEqual(await reserve(under, skuId, batch), [
    ...['ADMITTED', 'SOLD_OUT', 'ADMITTED', 'SOLD_OUT'],
  ]);
  assert.equal(await availableAt(skuId), '0');
});

test('a user who gave all back is still known', async () => {
  const skuId = nextSku();
  await install(under, skuId, 0n, { buyers: ['1', '0'] });
  assert.deepEqual(await reserve(under, skuId, [order(skuId), order(skuId, { userId: 2n })]), [
    ...['known SOLD_OUT', 'SOLD_OUT'],
  ]);
});

test('500 entries in one call are decided one by one', async () => {
  const skuId = nextSku();
  await install(under, skuId, 400n);
  const batch = Array.from({ length: 500 }, (_, at) => order(skuId, { userId: BigInt(at) }));
  const answers = await reserve(under, skuId, batch);
  assert.equal(answers.filter((answer) => answer === 'ADMITTED').length, 400);
  assert.equal(answers.filter((answer) => answer === 'SOLD_OUT').length, 100);
});

test('after a restart on the same data the gate is not loaded until it is installed again', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const first = order(skuId);
  await reserve(under, skuId, [first]);
  await under.restart();
  assert.equal(await availableAt(skuId), '9', 'the data is there');
  assert.deepEqual(await reserve(under, skuId, [first, order(skuId)]), ['GATE_NOT_LOADED']);
  await install(under, skuId, 9n, { epoch: 2n });
  assert.deepEqual(await reserve(under, skuId, [order(skuId)]), ['ADMITTED']);
});

test('scripts that Redis has forgotten are sent again', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  await redis.script('FLUSH');
  assert.deepEqual(await reserve(under, skuId, [order(skuId)]), ['ADMITTED']);
});

test('asked only, it answers each entry as if it came alone and changes nothing', async () => {
  const skuId = nextSku();
  await install(under, skuId, 3n, { limitPerUser: 3, currency: 'EUR' });
  const [before, first, second, large] = [
    order(skuId),
    order(skuId, { userId: 2n, quantity: 2 }),
    order(skuId, { userId: 3n, quantity: 2 }),
    order(skuId, { userId: 4n, quantity: 3 }),
  ];
  await reserve(under, skuId, [before]);
  const keys = skuKeys(skuId);
  const stateOf = async () => [
    await redis.get(keys.avail),
    await redis.hgetall(keys.buyers),
    await redis.zrange(keys.pending, '0', '-1'),
    await redis.hgetall(keys.entries),
    await redis.keys(`${keys.requests}*`),
  ];
  const untouched = await stateOf();
  const copy = { ...before, orderId: before.orderId + 5_000n };
  const limited = order(skuId, { quantity: 3 });
  const entries = [before, copy, first, second, large, limited].map((reservation) => {
    return { reservation, line: 0 };
  });
  const reply = await under.gate.reserve(skuId, entries, Deadline.after(20_000), 'ask');
  assert.deepEqual(reply, {
    ...{ kind: 'DECIDED', epoch: 1, currency: 'EUR' },
    answers: [
      reserveAnswer.ADMITTED_BEFORE,
      String(before.orderId),
      reserveAnswer.ADMITTED,
      reserveAnswer.ADMITTED,
      reserveAnswer.SOLD_OUT,
      reserveAnswer.LIMIT + knownFlag,
    ],
  });
  assert.deepEqual(await stateOf(), untouched);
});

test('a gate whose buyers were lost is not loaded: nobody knows who has reached the limit', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n, { limitPerUser: 1 });
  const taken = order(skuId);
  assert.deepEqual(await reserve(under, skuId, [taken]), ['ADMITTED']);
  await redis.unlink(skuKeys(skuId).buyers);
  assert.deepEqual(await reserve(under, skuId, [order(skuId)]), ['GATE_NOT_LOADED']);
  await gate.release(skuId, 1n, [{ orderId: taken.orderId, userId: 1n, units: 1 }]);
  assert.deepEqual(await reserve(under, skuId, [order(skuId)]), ['GATE_NOT_LOADED']);
});

/** The gate over a connection whose clock is read as the test says. */
function gateWith(clock: Partial<Record<'redisNowMs' | 'notBeforeMs' | 'correctionMs', number>>) {
  const read = Object.entries(clock).map(([name, ms]) => [name, { value: () => ms }] as const);
  const connection = Object.create(under.connection, Object.fromEntries(read));
  return { gate: new Gate(connection, createBreaker({ name: 'gate', log }), 20_000) };
}

test('a command that comes before it was sent meets a clock that was set back, and does nothing', async () => {
  const skuId = nextSku();
  await install(under, skuId, 10n);
  const aheadMs = Math.floor(under.connection.redisNowMs()) + 600_000;
  const late = gateWith({ redisNowMs: aheadMs, notBeforeMs: aheadMs - 1_000 });
  assert.deepEqual(await reserve(late, skuId, [order(skuId)]), ['EXPIRED']);
  assert.deepEqual(await reserve(under, skuId, [order(skuId)]), ['ADMITTED']);
});

test('the window goes by the time that the clocks agree on, and so does what is pending', async () => {
  const skuId = nextSku();
  const nowMs = Math.floor(under.connection.redisNowMs());
  await install(under, skuId, 10n, { openMs: nowMs - 60_000, closeMs: nowMs + 60_000 });
  const slow = gateWith({ correctionMs: 600_000 });
  assert.deepEqual(await reserve(slow, skuId, [order(skuId)]), ['ENDED']);
  const fast = gateWith({ correctionMs: -600_000 });
  assert.deepEqual(await reserve(fast, skuId, [order(skuId)]), ['NOT_STARTED']);
  const admitted = order(skuId);
  const little = gateWith({ correctionMs: 30_000 });
  assert.deepEqual(await reserve(little, skuId, [admitted]), ['ADMITTED']);
  const [, score] = await redis.zrange(skuKeys(skuId).pending, '0', '0', 'WITHSCORES');
  assert(Number(score) >= nowMs + 30_000);
});
