import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { hostClock, OrderIdGenerator } from '../../services/order/id-generator.ts';
import { workerCount } from '../../services/order/order-id.ts';
import {
  type LeasedWorker,
  startWorkerLease,
  type WorkerLeaseOptions,
} from '../../services/order/worker-lease.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl } from '../support/servers.ts';
import { type OrderBench, startOrderBench } from './support.ts';

let bench: OrderBench;
let pool: Pool;

before(async () => {
  bench = await startOrderBench('lease', { databases: 1, tables: 1 });
  pool = createPool(mysqlUrl, { database: `${bench.prefix}_order_0`, connectionsMax: 4 });
});
after(async () => {
  await pool.end();
  await bench.stop();
});

/** Started, and with a number, which a start leaves to the next round if MySQL is slow. */
async function leased(options: Partial<WorkerLeaseOptions> = {}): Promise<LeasedWorker> {
  const worker = await lease(options);
  await eventually(() => worker.current() !== undefined, 'a number is leased');
  return worker;
}

function lease(options: Partial<WorkerLeaseOptions> = {}) {
  return startWorkerLease({ pool, log: createLog('test', 'silent'), ...options });
}

test('processes that start together lease different numbers', async () => {
  const workers = await Promise.all(Array.from({ length: 8 }, () => leased()));
  const ids = workers.map((worker) => worker.current()?.workerId);
  assert.ok(!ids.includes(undefined));
  assert.equal(new Set(ids).size, 8);
  await Promise.all(workers.map((worker) => worker.stop(0)));
});

test('a lease is renewed before it ends, and its high-water mark moves ahead of it', async () => {
  // Long enough that a pause of the machine does not outlast what is left of it.
  const worker = await leased({ leaseMs: 6_000 });
  const first = worker.current();
  assert.ok(first);
  await eventually(
    () => (worker.current()?.validUntilMs ?? 0) > first.validUntilMs + 2_000,
    'the lease is renewed twice',
  );
  assert.equal(worker.current()?.workerId, first.workerId);
  assert.ok((worker.current()?.highWaterMs ?? 0) > first.highWaterMs);
  await worker.stop(0);
});

test('a number given back can be leased again above the ids made under it', async () => {
  const worker = await leased();
  const held = worker.current();
  assert.ok(held);
  const generator = new OrderIdGenerator(() => worker.current());
  generator.next(1);
  await worker.stop(generator.usedMs);
  const rows = await bench.sql(
    0,
    `SELECT owner, high_water_ms FROM workers WHERE worker_id = ${held.workerId}`,
  );
  assert.equal(rows[0]?.owner, null);
  assert.equal(Number(rows[0]?.high_water_ms), generator.usedMs);
  assert.equal(worker.current(), undefined);
});

test('a holder that lost its number notices, makes no ids under it and takes another', async () => {
  const worker = await leased({ leaseMs: 60_000 });
  const lost = worker.current();
  assert.ok(lost);
  await bench.sql(0, `UPDATE workers SET owner = 'thief' WHERE worker_id = ${lost.workerId}`);
  await worker.renew();
  const taken = worker.current();
  assert.ok(taken);
  assert.notEqual(taken.workerId, lost.workerId);
  await worker.stop(0);
});

test('a number whose holder died is free again after its lease and its high-water mark', async () => {
  await bench.sql(
    0,
    `UPDATE workers SET owner = 'dead', leased_until = UTC_TIMESTAMP(3) + INTERVAL 1 DAY`,
  );
  const worker = await lease({ leaseMs: 200 });
  assert.equal(worker.current(), undefined);
  const soonMs = Date.now() + 300;
  await bench.sql(
    0,
    `UPDATE workers SET leased_until = UTC_TIMESTAMP(3), high_water_ms = ${soonMs} WHERE worker_id = 9`,
  );
  await eventually(() => worker.current() !== undefined, 'the free number is leased');
  const taken = worker.current();
  assert.equal(taken?.workerId, 9);
  assert.equal(taken?.floorMs, soonMs);
  await worker.stop(0);
  await freeAllNumbers();
});

test('a clock more than 5 s off MySQL gets no number, in either direction', async () => {
  // A pause between MySQL's answer and the look at the clock makes a slow clock look better.
  for (const offMs of [-8_000, 5_500]) {
    const clock = { ...hostClock, wallMs: () => Date.now() + offMs };
    const worker = await lease({ clock });
    assert.equal(worker.current(), undefined);
    await assert.rejects(worker.renew(), /ms off MySQL/);
    await worker.stop(0);
  }
});

test('a clock that leaves the bounds takes the lease away until it is back', async () => {
  let offMs = 0;
  const clock = { ...hostClock, wallMs: () => Date.now() + offMs };
  const worker = await leased({ clock, leaseMs: 60_000 });
  assert.ok(worker.current());
  offMs = -600_000;
  await assert.rejects(worker.renew(), /ms off MySQL/);
  assert.equal(worker.current(), undefined);
  offMs = 0;
  await worker.renew();
  assert.ok(worker.current());
  await worker.stop(0);
});

test('there are 64 numbers, and the 65th process waits', async () => {
  await freeAllNumbers();
  const workers: LeasedWorker[] = [];
  // None is renewed meanwhile: so many at once would find no connection.
  const leaseMs = 60_000;
  for (let count = 0; count < workerCount; count += 1) workers.push(await leased({ leaseMs }));
  const ids = new Set(workers.map((worker) => worker.current()?.workerId));
  assert.ok(!ids.has(undefined));
  assert.equal(ids.size, workerCount);
  const late = await lease({ leaseMs });
  assert.equal(late.current(), undefined);
  await assert.rejects(late.renew(), /All worker numbers are leased/);
  await workers.pop()?.stop(0);
  await late.renew();
  assert.ok(late.current());
  for (const worker of [late, ...workers]) await worker.stop(0);
});

/** Leases that a test has left behind would keep their numbers for as long as they last. */
async function freeAllNumbers(): Promise<void> {
  await bench.sql(
    0,
    'UPDATE workers SET owner = NULL, leased_until = UTC_TIMESTAMP(3), high_water_ms = 0',
  );
}
