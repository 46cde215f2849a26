import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../deploy/local/port.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import type { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { reservedOutcome, startFakeStock } from './fake-stock.ts';
import {
  type OrderBench,
  type OrderProcess,
  orderRequest,
  startOrderBench,
  within,
} from './support.ts';

/** Time enough to come as far as what hangs, also on a machine that pauses. */
const patienceMs = 2_500;
/** Too little for the database by its own rule, and mostly enough to come that far. */
const hastyMs = 150;
const hastyMax = 150;

let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('failures');
  order = await bench.start();
});
afterEach(() => {
  failpoints.clear();
  bench.stock.script = () => undefined;
});
after(() => bench.stop());

/** What hangs until the caller has been told. */
function untilTold(): { answered: Promise<void>; told: () => void } {
  let told: () => void = () => undefined;
  const answered = new Promise<void>((resolve) => (told = resolve));
  return { answered, told };
}

async function metric(process: OrderProcess, name: string): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${process.metricsPort}/metrics`);
  const lines = (await response.text()).split('\n');
  const line = lines.find((candidate) => candidate.startsWith(name));
  return Number(line?.split(' ').at(-1) ?? 0);
}

async function notReady(process: OrderProcess): Promise<string[]> {
  const response = await fetch(`http://127.0.0.1:${process.metricsPort}/readyz`);
  return ((await response.json()) as { waitingFor: string[] }).waitingFor;
}

test('a caller whose time runs out while stock works is told unknown, and the retry finds the order', async () => {
  const { answered, told } = untilTold();
  bench.stock.script = async (reservation) => {
    await answered;
    return reservedOutcome(reservation);
  };
  const request = orderRequest(1n, 'slow stock');
  const slow = order.client.createOrder(request, within(patienceMs)).finally(told);
  await assert.rejects(slow, { reason: 'OUTCOME_UNKNOWN' });
  bench.stock.script = () => undefined;
  const { order: made } = await order.client.createOrder(request);
  assert.equal((await bench.orderRows('user_id = 1')).length, 1);
  const again = await order.client.createOrder(request);
  assert.equal(again.order?.orderId, made?.orderId);
});

test('a caller whose time runs out while MySQL works is told unknown, and the retry finds one order', async () => {
  const { answered, told } = untilTold();
  failpoints.set('order.before_commit', () => answered);
  const request = orderRequest(2n, 'slow commit');
  const slow = order.client.createOrder(request, within(patienceMs)).finally(told);
  await assert.rejects(slow, { reason: 'OUTCOME_UNKNOWN' });
  failpoints.clear();
  const { order: made } = await order.client.createOrder(request);
  const rows = await bench.orderRows('user_id = 2');
  assert.deepEqual(
    rows.map((row) => BigInt(row.order_id)),
    [made?.orderId],
  );
});

test('callers with hardly any time do not open the circuit of a database', async () => {
  // Its expirer asks hardly ever: the answers that it gets would keep the circuits closed.
  const expiry = { intervalMs: 60_000, batchMax: 10, batchesMax: 1, voidsInFlightMax: 1 };
  const process = await bench.start({ expiry });
  let reached = 0;
  failpoints.set('order.after_begin', async () => {
    reached += 1;
    await sleep(2 * hastyMs);
  });
  const user = 100n;
  for (let index = 0; reached < 15; index += 1) {
    assert.ok(index < hastyMax, `${reached} callers came as far as the database`);
    const before = reached;
    const hasty = process.client.createOrder(orderRequest(user, `hasty ${index}`), within(hastyMs));
    await assert.rejects(hasty, ({ reason }: Refusal) => {
      // A caller whose time was over on the way there may know that nothing was done.
      return reason === 'OUTCOME_UNKNOWN' || (reason === 'OVERLOADED' && reached === before);
    });
    process.closeCircuit();
    // Each time: one that has opened is soon closed again, since the database answers.
    for (const { away } of process.shards.databases) assert.equal(away, false);
  }
  failpoints.clear();
  const { order: made } = await process.client.createOrder(orderRequest(user, 'calm'));
  assert.equal(made?.userId, user);
  await process.stop();
});

test('without stock orders are refused as a dependency that is down, and taken when it is back', async () => {
  // Not one of those that connections get theirs from, which it might not find free again.
  const port = await freePort();
  const stock = await startFakeStock(port);
  const process = await bench.start({ stockAddresses: [stock.address] });
  await process.client.createOrder(orderRequest(4n, 'with'));
  assert.deepEqual(await notReady(process), []);
  await stock.stop();
  await eventually(async () => (await notReady(process)).includes('stock'), 'it is not ready');
  await assert.rejects(process.client.createOrder(orderRequest(4n, 'without')), {
    reason: 'DEPENDENCY_DOWN',
  });
  assert.equal((await bench.orderRows('user_id = 4')).length, 1);
  const back = await startFakeStock(port);
  await eventually(
    () =>
      process.client.createOrder(orderRequest(4n, 'without')).then(
        () => true,
        () => false,
      ),
    'orders are taken again',
  );
  await process.stop();
  await back.stop();
});

test('a process without its databases starts, says what it waits for, and refuses orders', async () => {
  const mysqlUrls = ['mysql://root@127.0.0.1:1'];
  const process = await bench.start({ mysqlUrls });
  const waitingFor = await notReady(process);
  assert.ok(waitingFor.includes('the slot map'));
  assert.ok(waitingFor.includes('a worker number'));
  await assert.rejects(process.client.createOrder(orderRequest(5n, 'no database')), {
    reason: 'DEPENDENCY_DOWN',
  });
  await process.stop();
});

test('each request counts once, by what became of it', async () => {
  const process = await bench.start();
  await process.client.createOrder(orderRequest(6n, 'counted'));
  await assert.rejects(process.client.createOrder(orderRequest(0n, 'counted')));
  bench.stock.script = () => ({ $case: 'unknown', value: { lockedSkuId: 0n } });
  await assert.rejects(process.client.createOrder(orderRequest(7n, 'counted')));
  const of = (status: string) => metric(process, `order_create_total{status="${status}"`);
  assert.equal(await of('success'), 1);
  assert.equal(await of('rejected'), 1);
  assert.equal(await of('unknown'), 1);
  assert.equal(await of('failed'), 0);
  assert.equal(await metric(process, 'order_create_duration_seconds_count'), 3);
  await process.stop();
});
