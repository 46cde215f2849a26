import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { OrderResolution } from '../../gen/sluice/order/v1/order_service.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createEventPublisher } from '../../services/runtime/event-publisher.ts';
import { orderEventsTopic } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { eventually } from '../support/eventually.ts';
import { paySession, startLifeWorkload } from '../support/life-workload.ts';
import { kafkaBrokers } from '../support/servers.ts';
import { type System, startSystem } from '../support/system.ts';
import { answered, runSeed } from '../support/workload.ts';
import { sluice } from './run-sluice.ts';

// The command line beside running services: nothing is stopped for it, and nothing under way disturbs it.

const skuIds = [1n, 2n, 3n];
const userId = 77n;
/** What normally takes a few seconds, or as long as a group needs to miss a member that was killed. */
const bounds = { withinMs: 180_000, everyMs: 1_000 };
/** More than the bounds of one test together. */
const slow = { timeout: 780_000 };
let system: System;

before(async () => {
  system = await startSystem({
    name: 'operator',
    payments: 1,
    events: true,
    env: { SLUICE_ORDER_EXPIRY_SECONDS: '60', SLUICE_SETTLE_AGE_MS: '2000' },
  });
  for (const skuId of skuIds) await system.createSku({ skuId, supplied: 10_000n });
});
after(() => system?.close());

const auditJson = async (...args: string[]) => {
  const { code, stdout, stderr } = await sluice(['audit', '--json', ...args], system.env);
  return { code, result: JSON.parse(stdout || `{"stderr":${JSON.stringify(stderr)}}`) };
};

test('under load the audit is clean, and so it is at rest', slow, async (t) => {
  const seed = runSeed();
  t.diagnostic(`SLUICE_TEST_SEED=${seed}`);
  const options = { system, seed, label: 'audit', skuIds, users: 200, concurrency: 6, restMs: 30 };
  const workload = startLifeWorkload(options);
  try {
    await eventually(() => workload.history.length > 40, 'orders are made');
    const { code, result } = await auditJson();
    assert.deepEqual([code, result.breaches], [0, 0], JSON.stringify(result, null, 1));
    assert(result.promises[1].counted.orders > 0);
  } finally {
    await workload.stop();
  }
  // Orders that nobody pays give their stock back for a minute yet; a gate that moves is not at rest.
  const isAtRest = async (): Promise<boolean> => {
    const { code, result } = await auditJson();
    assert.deepEqual([code, result.breaches], [0, 0], JSON.stringify(result, null, 1));
    const gates = result.promises.find(({ promise }: { promise: string }) => promise === 'I5');
    return gates.counted['gates at rest'] === 3;
  };
  await eventually(isAtRest, 'every gate is at rest', bounds);
});

async function buy(requestId: string): Promise<bigint> {
  const lines = [
    { skuId: 1n, quantity: 2 },
    { skuId: 2n, quantity: 1 },
  ];
  const request = { userId, requestId, lines };
  const { order } = await answered(() => system.order().createOrder(request));
  return order?.orderId as bigint;
}

async function payFor(orderId: bigint): Promise<bigint> {
  const request = { orderId, userId, requestId: `pay-${orderId}` };
  const { payment } = await answered(() => system.payment().createPayment(request));
  await paySession(system, payment?.providerReference as string);
  await untilStatus(orderId, 2);
  return payment?.paymentId as bigint;
}

async function untilStatus(orderId: bigint, status: number): Promise<void> {
  const isReached = async (): Promise<boolean> => {
    const { order } = await answered(() => system.order().getOrder({ orderId, userId }));
    return order?.status === status;
  };
  await eventually(isReached, `order ${orderId} gets the status ${status}`, bounds);
}

/** Explains until the stores behind the events have caught up, which `complete` decides. */
async function explained(
  orderId: bigint,
  complete: (lines: string[], answers: string[]) => boolean = () => true,
) {
  let explanation: Awaited<ReturnType<typeof explainOnce>> | undefined;
  await eventually(
    async () => {
      explanation = await explainOnce(orderId);
      return complete(explanation.lines, explanation.answers);
    },
    `the explanation of ${orderId} is complete`,
    bounds,
  ).catch((cause) => {
    throw new Error(JSON.stringify(explanation, null, 1), { cause });
  });
  return explanation as Awaited<ReturnType<typeof explainOnce>>;
}

async function explainOnce(orderId: bigint) {
  const { code, stdout, stderr } = await sluice(['explain', String(orderId), '--json'], system.env);
  assert.equal(code, 0, stderr);
  const whole = JSON.parse(stdout);
  const lines: string[] = whole.life.map(
    ({ store, what }: { store: string; what: string }) => `${store}: ${what}`,
  );
  const times = whole.life.map(({ time }: { time?: string }) => time).filter(Boolean);
  assert.deepEqual(times, [...times].sort(), 'in time order');
  const answers: string[] = whole.services.map(({ answer }: { answer: string }) => answer);
  return { whole, lines, answers };
}

const has =
  (...patterns: RegExp[]) =>
  (lines: string[]): boolean =>
    patterns.every((pattern) => lines.some((line) => pattern.test(line)));

/** P7 as the audit sees it after a second, with the kinds of flaws. */
async function auditEvents() {
  const { code, result } = await auditJson('--promise', 'P7', '--grace', '1');
  const [{ breaches, kinds }] = result.promises;
  return { code, breaches, kinds: kinds.map(({ kind }: { kind: string }) => kind), result };
}

/** An order whose last event came, and was consumed, well before what follows. */
async function oldOrder(): Promise<string> {
  const sql = `SELECT order_id FROM order_line_facts WHERE status = 'CANCELLED'
    AND event_time < UTC_TIMESTAMP(3) - INTERVAL 15 SECOND LIMIT 1`;
  let orderId: string | undefined;
  await eventually(
    async () => {
      const [rows] = await system.warehousePool.query(sql);
      orderId = (rows as { order_id: string }[])[0]?.order_id;
      return orderId !== undefined;
    },
    'an order was cancelled a while ago',
    bounds,
  );
  return orderId as string;
}

test('groups that are behind are told and break no promise; what they have not consumed is not judged', {
  timeout: 1_200_000,
}, async () => {
  let seen: Awaited<ReturnType<typeof auditEvents>> | undefined;
  const untilAudit = async (what: string, holds: (kinds: string[]) => boolean): Promise<void> => {
    const look = async (): Promise<boolean> => {
      seen = await auditEvents();
      return holds(seen.kinds);
    };
    await eventually(look, what, bounds).catch((cause) => {
      throw new Error(JSON.stringify(seen?.result, null, 1), { cause });
    });
  };
  const old = await oldOrder();
  await untilAudit('the groups have consumed all', (kinds) => kinds.length === 0);
  await system.events?.kill();
  await buy('behind');
  await untilAudit('the audit tells that all three groups are behind', (kinds) => {
    // An event that Kafka did not take for a second, with a grace of one, is late and says nothing of the groups.
    if (kinds.includes('outbox-late')) return false;
    assert.equal(seen?.breaches, 0, JSON.stringify(seen?.result, null, 1));
    return kinds.includes('group-behind') && seen?.result.promises[0].findings === 3;
  });
  assert.equal(seen?.code, 0);
  const [{ isFinding, examples }] = seen?.result.promises[0].kinds ?? [];
  assert.equal(isFinding, true);
  assert.match(examples[1].sentence, /^the group warehouse is \d+ events behind and has consumed/);
  // What is older than all that is left to consume is judged as ever.
  const negate = (orderId: string): Promise<unknown> =>
    system.warehousePool.query(
      `UPDATE order_line_facts SET order_id = -order_id WHERE order_id = ${orderId}`,
    );
  await negate(old);
  try {
    const isNamed = (kinds: string[]): boolean =>
      kinds.includes('warehouse-behind') && !kinds.includes('outbox-late');
    await untilAudit('the audit names the damage', isNamed);
    assert.deepEqual([seen?.code, seen?.breaches], [1, 1], JSON.stringify(seen?.result, null, 1));
  } finally {
    await negate(`-${old}`);
    await system.events?.restart();
  }
  await untilAudit('the groups catch up', (kinds) => kinds.length === 0);
  assert.equal(seen?.code, 0);
});

test('a paid and refunded order is explained from every store', slow, async () => {
  const orderId = await buy('explain-refunded');
  const paymentId = await payFor(orderId);
  const request = { paymentId, amount: undefined, requestId: 'all', reason: '', restock: true };
  await answered(() => system.payment().refundPayment(request));
  await untilStatus(orderId, 4);
  const isTold = has(
    /^order: created for user 77, request "explain-refunded", total 5997 EUR/,
    /^order: PENDING → PAID, version 2/,
    /^order: REFUNDING → REFUNDED, version 4/,
    /^stock: held: 2 of SKU 1 at 1999 EUR/,
    /^stock: the hold of SKU 2 is RESTOCKED/,
    /^payment: payment \d+ of 5997 EUR.* with simulator/,
    /^payment: payment \d+ is SUCCEEDED, RECORDED, captured 5997 EUR/,
    /^payment: webhook .*: /,
    /^payment: refund \d+ of 5997 EUR .* asked for as "op:all", units back on sale/,
    /^payment: refund \d+ is SUCCEEDED/,
    /^kafka: event PENDING, version 1 \(partition \d+, offset \d+\)/,
    /^kafka: event REFUNDED, version 4, restock/,
    /^statistics: counted as REFUNDED, version 4/,
    /^warehouse: the fact of SKU 1 says REFUNDED, version 4/,
    /^mail: confirmation sent/,
  );
  const isAnswered = has(
    /GetOrder answers REFUNDED, version 4/,
    /ListPayments answers \d+ SUCCEEDED RECORDED/,
    /the gate of SKU 1 is open/,
  );
  const { whole, lines } = await explained(
    orderId,
    (told, answers) => isTold(told) && isAnswered(answers),
  );
  assert.equal(whole.exists, 'order');
  assert.match(lines[0] as string, /^stock: held/, 'stock is held before the order is written');
  const text = await sluice(['explain', String(orderId), '--no-kafka'], system.env);
  assert.match(text.stdout, new RegExp(`^Order ${orderId} is REFUNDED, version 4, of user 77\\.`));
  assert(!text.stdout.includes('kafka'));
});

test('a pending order and a cancelled one are explained', slow, async () => {
  const pending = await explained(await buy('explain-pending'));
  assert(has(/^order: expires unless it is paid/)(pending.lines), pending.lines.join('\n'));
  const orderId = await buy('explain-cancelled');
  await answered(() => system.order().cancelOrder({ orderId, userId }));
  const done = has(
    /^order: PENDING → CANCELLED \(USER\), version 2/,
    /^stock: the hold of SKU 1 is RELEASED/,
    /^statistics: counted as CANCELLED/,
  );
  assert.equal((await explained(orderId, done)).whole.exists, 'order');
});

test('a fence and an id that never was get a clear answer', async () => {
  // Made a minute ago by a worker that does not run, so that no order can have it.
  const never = (BigInt(Date.now() - 60_000 - Date.UTC(2025, 0, 1)) << 22n) | (63n << 6n);
  const nothing = await explained(never);
  assert.equal(nothing.whole.exists, 'nothing');
  assert.match(nothing.whole.summary, /does not exist: no store has an order/);
  assert.equal(nothing.whole.id.worker, 63);
  // What a lock leaves undecided is asked again.
  const isDead = async (): Promise<boolean> => {
    const request = { orderIds: [never] };
    const { resolutions } = await answered(() => system.order().resolveOrders(request));
    return resolutions[0] === OrderResolution.ORDER_RESOLUTION_DEAD;
  };
  await eventually(isDead, 'the id is fenced');
  const fence = await explained(never);
  assert.equal(fence.whole.exists, 'fence');
  assert.match(fence.whole.summary, /does not exist and never will/);
});

test('dead letters are listed with their reason and replayed once', slow, async () => {
  const log = createLog('test', 'silent');
  const brokers = kafkaBrokers.split(',');
  const publisher = createEventPublisher({ clientId: 'test', brokers, log });
  const topic = orderEventsTopic(`${system.prefix}.`);
  const poison = { key: '123', value: Buffer.from('not an event') };
  try {
    await publisher.publish(topic, [poison], Deadline.after(30_000));
  } finally {
    await publisher.close();
  }
  type Letter = Record<'group' | 'reason' | 'offset', string> & {
    partition: number;
    replayed: boolean;
  };
  const list = async (...args: string[]): Promise<Letter[]> => {
    const { code, stdout, stderr } = await sluice(['dlq', ...args, '--json'], system.env);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };
  const placeOf = ({ partition, offset }: Letter): string => `${partition}@${offset}`;
  const groupsOf = (letters: readonly Letter[]): number =>
    new Set(letters.map(({ group }) => group)).size;
  await eventually(async () => groupsOf(await list('list')) === 4, 'four groups bury it', bounds);
  // A group that lost its partitions in between may have buried it twice.
  const buried = await list('list');
  const [letter] = await list('list', '--limit', '1');
  assert.match(letter?.reason ?? '', /Error/);
  const text = await sluice(['dlq', 'list'], system.env);
  assert.match(text.stdout, /order 123 .*\n {2}.*Error/);
  const group = letter?.group as string;
  const ownBuried = buried.filter((each) => each.group === group).map(placeOf);
  const would = await list('replay', '--dry-run');
  assert.deepEqual(would.map(placeOf).sort(), buried.map(placeOf).sort());
  assert.deepEqual((await list('replay', '--group', group)).map(placeOf), ownBuried);
  // It is as bad as before, so its group, and no other one, buries it again; only the new letter is left to replay.
  const isBuriedAgain = async () => (await list('list')).length > buried.length;
  await eventually(isBuriedAgain, 'it is buried again', bounds);
  const own = await list('list', '--group', group);
  const again = own.filter(({ replayed }) => !replayed).map(placeOf);
  assert.deepEqual(own.filter(({ replayed }) => replayed).map(placeOf), ownBuried);
  assert(again.length > 0);
  const left = await list('replay', '--dry-run', '--group', group);
  assert.deepEqual(left.map(placeOf), again);
  const all = (await list('list')).filter(({ replayed }) => !replayed);
  assert.deepEqual(
    (await list('replay', '--dry-run')).map(placeOf).sort(),
    all.map(placeOf).sort(),
  );
  assert.equal(all.length, buried.length - ownBuried.length + again.length);
  assert.equal(groupsOf(all), 4);
});
