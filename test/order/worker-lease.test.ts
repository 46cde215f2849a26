import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { hostClock, OrderIdGenerator } from '../../services/order/id-generator.ts';
import { timeMsOfOrder, workerCount } from '../../services/order/order-id.ts';
import {
  type LeasedWorker,
  startWorkerLease,
  type WorkerLeaseOptions,
} from '../../services/order/worker-lease.ts';
import { JudgedTime } from '../../services/runtime/judged-time.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl } from '../support/servers.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { type OrderBench, startOrderBench } from './support.ts';

/** Far less than the clock was ahead. */
const bounds = { withinMs: 30_000 };

let bench: OrderBench;
let pools: Pool[];

before(async () => {
  bench = await startOrderBench('lease', { databases: 1, tables: 1 });
  pools = [createPool(mysqlUrl, { database: `${bench.prefix}_order_0`, connectionsMax: 4 })];
});
after(async () => {
  await Promise.all(pools.map((pool) => pool.end()));
  await bench.stop();
});

/** Started, and with a number, which a start leaves to the next round if MySQL is slow. */
async function leased(options: Partial<WorkerLeaseOptions> = {}): Promise<LeasedWorker> {
  const worker = await lease(options);
  await eventually(() => worker.current() !== undefined, 'a number is leased');
  return worker;
}

function lease(options: Partial<WorkerLeaseOptions> = {}) {
  return startWorkerLease({
    ...{ pools, time: new JudgedTime(), serverOf: () => 'mysql' },
    log: createLog('test', 'silent'),
    ...options,
  });
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

test('renewals within one millisecond keep the number', async () => {
  const worker = await leased({ leaseMs: 60_000 });
  const first = worker.current();
  for (let count = 0; count < 300; count += 1) await worker.renew();
  assert.equal(worker.current()?.workerId, first?.workerId);
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
    `UPDATE workers SET owner = 'dead', leased_until = UTC_TIMESTAMP(3) + INTERVAL 1 MINUTE`,
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

test("a lease that is over by MySQL's clock alone is renewed", async () => {
  const worker = await leased({ leaseMs: 60_000 });
  const first = worker.current();
  assert.ok(first);
  // As when the clock has stepped forward: the number is still nobody else's.
  await bench.sql(
    0,
    `UPDATE workers SET leased_until = UTC_TIMESTAMP(3) - INTERVAL 10 MINUTE
     WHERE worker_id = ${first.workerId}`,
  );
  await worker.renew();
  const renewed = worker.current();
  assert.equal(renewed?.workerId, first.workerId);
  assert.ok((renewed?.validUntilMs ?? 0) > first.validUntilMs);
  await worker.stop(0);
  await freeAllNumbers();
});

test('a lease that was stored while the clock was ahead keeps its number from nobody, ids that may exist do', async () => {
  const lockAll = (highWaterMs: number) =>
    bench.sql(
      0,
      `UPDATE workers SET owner = 'dead', leased_until = UTC_TIMESTAMP(3) + INTERVAL 10 MINUTE,
         high_water_ms = ${highWaterMs}`,
    );
  await lockAll(Date.now() + 600_000);
  const worker = await lease({ leaseMs: 200 });
  assert.equal(worker.current(), undefined);
  const usedMs = Date.now() - 1_000;
  await lockAll(usedMs);
  await eventually(() => worker.current() !== undefined, 'a number is leased', bounds);
  assert.equal(worker.current()?.floorMs, usedMs);
  await worker.stop(0);
  await freeAllNumbers();
});

test('while the clocks of host and MySQL disagree there is no number, until a third one says who is right', async () => {
  for (const offMs of [-8_000, 5_500]) {
    const time = new JudgedTime({ wallMs: () => Date.now() + offMs });
    const worker = await lease({ time });
    assert.equal(worker.current(), undefined);
    await assert.rejects(worker.renew(), /disagree/);
    time.observe('stock', Date.now());
    await worker.renew();
    assert.ok(worker.current());
    const generator = new OrderIdGenerator(() => worker.current(), {
      ...hostClock,
      wallMs: () => time.nowMs() ?? 0,
    });
    const aheadMs = timeMsOfOrder(generator.next(1)) - Date.now();
    assert.ok(Math.abs(aheadMs) < 5_000, `the id is ${aheadMs} ms ahead, its host ${offMs} ms`);
    await worker.stop(generator.usedMs);
    await freeAllNumbers();
  }
});

for (const stepMs of [600_000, -600_000]) {
  test(`a host whose clock steps by ${stepMs} ms goes on making ids of the right time`, async () => {
    let offMs = 0;
    const time = new JudgedTime({ wallMs: () => Date.now() + offMs });
    const worker = await leased({ time });
    const wallMs = (): number => time.nowMs() ?? 0;
    const generator = new OrderIdGenerator(() => worker.current(), { ...hostClock, wallMs });
    const before = generator.next(1);
    offMs = stepMs;
    await worker.renew();
    const after = generator.next(1);
    assert.ok(after > before);
    assert.ok(timeMsOfOrder(after) - timeMsOfOrder(before) < 60_000);
    await worker.stop(generator.usedMs);
    await freeAllNumbers();
  });
}

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

const losses: Readonly<Record<string, (proxy: TcpProxy) => void>> = {
  'is away': (proxy) => {
    // Nobody listens there.
    proxy.target(1);
    proxy.cut();
  },
  hangs: (proxy) => {
    proxy.silence();
    proxy.silenceNewOnes(true);
  },
};

for (const [what, lose] of Object.entries(losses)) {
  test(`a number whose database ${what} is followed by another one before it has run out`, () =>
    assertFollowed(lose));
}

async function assertFollowed(lose: (proxy: TcpProxy) => void): Promise<void> {
  const two = await startOrderBench('lease_two', { databases: 2, tables: 1 });
  const serverPort = Number(new URL(mysqlUrl).port);
  const proxies = await Promise.all([0, 1].map(() => startTcpProxy(serverPort)));
  const own = proxies.map(({ port }, index) =>
    createPool(`mysql://root@127.0.0.1:${port}`, {
      database: `${two.prefix}_order_${index}`,
      connectionsMax: 2,
    }),
  );
  // As services have it: what is silent must be found out before the lease ends.
  const worker = await leased({ pools: own });
  try {
    const first = worker.current();
    assert.ok(first);
    const home = first.workerId % 2;
    lose(proxies[home] as TcpProxy);
    let gap = false;
    await eventually(() => {
      const now = worker.current();
      gap ||= now === undefined || now.validUntilMs <= performance.now();
      return now !== undefined && now.workerId % 2 !== home;
    }, 'the other database gives a number');
    assert.equal(gap, false, 'there was a number all the time');
    const sql = 'SELECT COUNT(*) AS leased FROM workers WHERE owner IS NOT NULL';
    const [row] = await two.sql(1 - home, sql);
    assert.equal(Number(row?.leased), 1);
  } finally {
    await worker.stop(0).catch(() => undefined);
    await Promise.all(own.map((pool) => pool.end()));
    await Promise.all(proxies.map((proxy) => proxy.stop()));
    await two.stop();
  }
}

/** Leases that a test has left behind would keep their numbers for as long as they last. */
async function freeAllNumbers(): Promise<void> {
  await bench.sql(
    0,
    'UPDATE workers SET owner = NULL, leased_until = UTC_TIMESTAMP(3), high_water_ms = 0',
  );
}
