import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { reservedOutcome } from './fake-stock.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

let bench: OrderBench;
let processes: OrderProcess[];

before(async () => {
  bench = await startOrderBench('same');
  processes = await Promise.all([bench.start(), bench.start()]);
});
afterEach(() => {
  bench.stock.script = () => undefined;
});
after(() => bench.stop());

/** The same request `copies` times at once, spread over the processes; the answers, by order id. */
async function createAtOnce(userId: bigint, requestId: string, copies: number) {
  const calls = Array.from({ length: copies }, (_, index) =>
    processes[index % processes.length]!.client.createOrder(orderRequest(userId, requestId)),
  );
  const answers = await Promise.all(calls);
  return {
    ids: new Set(answers.map(({ order }) => order?.orderId)),
    made: answers.filter(({ replayed }) => !replayed).length,
  };
}

test('the same request 1,000 times at once over two processes makes one order', async () => {
  const { ids, made } = await createAtOnce(1n, 'thousand', 1_000);
  assert.equal(ids.size, 1);
  assert.equal(made, 1);
  const rows = await bench.orderRows('user_id = 1');
  assert.deepEqual(new Set(rows.map((row) => BigInt(row.order_id))), ids);
});

test('also when Redis remembers nothing: the unique key lets one of them win', async () => {
  bench.stock.script = reservedOutcome;
  for (let round = 0; round < 20; round += 1) {
    const { ids, made } = await createAtOnce(2n, `forgotten ${round}`, 10);
    assert.equal(ids.size, 1);
    assert.equal(made, 1);
  }
  assert.equal((await bench.orderRows('user_id = 2')).length, 20);
});

test('the same request in many batches at once makes one order of each', async () => {
  const requests = Array.from({ length: 50 }, (_, index) => orderRequest(3n, `batch ${index}`));
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) =>
      processes[index % 2]!.client.batchCreateOrders({ requests }),
    ),
  );
  const ids = new Set<bigint | undefined>();
  let made = 0;
  for (const { results } of answers) {
    for (const { outcome } of results) {
      assert.equal(outcome?.$case, 'created');
      ids.add(outcome.value.order?.orderId);
      if (!outcome.value.replayed) made += 1;
    }
  }
  assert.equal(ids.size, 50);
  assert.equal(made, 50);
  assert.equal((await bench.orderRows('user_id = 3')).length, 50);
});

test('different contents under one request id at once: one order, and errors for the others', async () => {
  const calls = Array.from({ length: 40 }, (_, index) =>
    processes[index % 2]!.client.createOrder(
      orderRequest(4n, 'contents', [{ skuId: BigInt(1 + (index % 4)), quantity: 1 }]),
    ).then(
      ({ order }) => ({ index, orderId: order?.orderId, reason: undefined }),
      (error) => ({ index, orderId: undefined, reason: error.reason as string }),
    ),
  );
  const answers = await Promise.all(calls);
  const winners = answers.filter(({ orderId }) => orderId !== undefined);
  assert.equal(new Set(winners.map(({ orderId }) => orderId)).size, 1);
  assert.equal(new Set(winners.map(({ index }) => index % 4)).size, 1);
  for (const { orderId, reason } of answers) {
    if (orderId === undefined) assert.equal(reason, 'IDEMPOTENCY_KEY_REUSED');
  }
  assert.equal((await bench.orderRows('user_id = 4')).length, 1);
});
