import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { RefundStatus } from '../../gen/sluice/payment/v1/payment.ts';
import { fromClientError } from '../../services/runtime/refusal-status.ts';
import { eventually } from '../support/eventually.ts';
import { setKnobs } from '../support/life-workload.ts';
import { type System, startSystem } from '../support/system.ts';
import { attemptOf } from './buyers.ts';
import { assertRecovered, assertUnharmed, type Group, type Phases, runTrial } from './harness.ts';
import {
  type BegunOrder,
  beginOrder,
  beginOrders,
  callOptions,
  cancel,
  cancellers,
  endTime,
  expiries,
  makeOrder,
  payers,
  payOne,
  refund,
  refunds,
  untilCancelled,
} from './payers.ts';
import { type ProviderProxy, startProviderProxy } from './provider-proxy.ts';

// The payment provider gives a slow or odd answer about one payment, or about ten: those payments may suffer. Other
// buyers' payments, cancels, expiries and refunds notice nothing.

const skuId = 8_001n;
/** Time enough for ten attempts to fail, were they counted against the provider. */
const times = { beforeMs: 4_000, duringMs: 7_000, recoveryMs: 500, afterMs: 2_000 };

let proxy: ProviderProxy;
let system: System;

before(async () => {
  proxy = await startProviderProxy();
  system = await startSystem({
    name: 'provider',
    ...{ orders: 2, payments: 1 },
    env: { SLUICE_SIMULATOR_URL: proxy.url },
  });
  proxy.forwardTo(system.simulator?.port as number);
  await system.createSku({ skuId, supplied: 1_000_000n });
});
after(async () => {
  await system?.close();
  await proxy?.stop();
});

const names = ['payers', 'cancellers', 'expiries', 'refunds'] as const;
type Others = Record<(typeof names)[number], Group>;

const others = (): Others => ({
  payers: payers({ system, skuId, perSecond: 4 }),
  cancellers: cancellers({ system, skuId, perSecond: 4 }),
  expiries: expiries({ system, skuId, perSecond: 3 }),
  refunds: refunds({ system, skuId, perSecond: 2 }),
});

function assertNothingNoticed(phases: Record<(typeof names)[number], Phases>): void {
  for (const name of names) {
    assertUnharmed(phases[name], name);
    assertRecovered(phases[name], name);
  }
}

/** Repeats something all the time until it is stopped; what it throws is its own affair. */
function again(work: () => Promise<unknown>, pauseMs: number): { stop(): Promise<void> } {
  let stopped = false;
  const done = (async () => {
    while (!stopped) {
      await work().catch(() => undefined);
      await sleep(pauseMs);
    }
  })();
  return {
    async stop() {
      stopped = true;
      await done;
    },
  };
}

async function statusOf({ orderId }: Pick<BegunOrder, 'orderId'>): Promise<OrderStatus> {
  const { order } = await system.order().getOrder({ orderId, userId: 0n }, callOptions());
  return order?.status ?? OrderStatus.ORDER_STATUS_UNSPECIFIED;
}

const reasonOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => 'done',
    (error) => fromClientError(error).reason,
  );

test('ten debits in processing, which can be neither paid nor voided now, keep nothing else waiting', async () => {
  const debits = await beginOrders(system, skuId, 10);
  await setKnobs(system, { processingMs: 3_600_000 });
  const paying = debits.map(({ payment }) =>
    fetch(payment.paymentUrl.concat('/pay'), { method: 'POST', redirect: 'manual' }),
  );
  await Promise.all(paying);
  await setKnobs(system, {});
  let cancelling: { stop(): Promise<void> } | undefined;
  const reasons = new Set<string>();
  const phases = await runTrial({
    groups: others(),
    ...times,
    bad: {
      async on() {
        // Half of them are overdue, and the buyers of the others cancel all the time.
        await endTime(system, debits.slice(5));
        cancelling = again(async () => {
          const asked = debits.slice(0, 5).map((debit) => reasonOf(cancel(system, debit)));
          for (const reason of await Promise.all(asked)) reasons.add(reason);
        }, 300);
      },
      off: async () => await cancelling?.stop(),
    },
  });
  assertNothingNoticed(phases);
  assert.deepEqual([...reasons], ['ILLEGAL_TRANSITION']);
  for (const debit of debits) {
    assert.equal(await statusOf(debit), OrderStatus.ORDER_STATUS_PENDING);
  }
});

test('a provider that is silent about some sessions and refunds keeps no others waiting', async () => {
  const overdue = await beginOrders(system, skuId, 8);
  const cancelled = await beginOrders(system, skuId, 8);
  const paid: BegunOrder[] = [];
  for (const begun of await beginOrders(system, skuId, 8)) paid.push(await payOne(system, begun));
  const unopened = await Promise.all(Array.from({ length: 8 }, () => makeOrder(system, skuId)));
  const suffering = [
    ...[...overdue, ...cancelled, ...paid].map(({ payment }) => payment.providerReference),
    ...unopened.map(({ orderId }) => String(orderId)),
  ];
  let trying: { stop(): Promise<void> } | undefined;
  const phases = await runTrial({
    groups: others(),
    ...times,
    bad: {
      async on() {
        proxy.silentAbout(suffering);
        await endTime(system, overdue);
        for (const each of paid) await refund(system, each);
        trying = again(
          () =>
            Promise.allSettled([
              ...cancelled.map((each) => cancel(system, each)),
              ...unopened.map((each) =>
                system.payment().createPayment({ ...each, requestId: 'first' }, callOptions()),
              ),
            ]),
          200,
        );
      },
      async off() {
        proxy.endSilence();
        await trying?.stop();
      },
    },
  });
  assertNothingNoticed(phases);
  assert(proxy.silent() >= 4 * 8, `${proxy.silent()} calls were met with silence`);
  // They recover by themselves, but for those that somebody has to ask for again.
  await Promise.all(overdue.map((each) => untilCancelled(system, each)));
  for (const each of cancelled) {
    await eventually(async () => (await reasonOf(cancel(system, each))) === 'done', 'cancelled');
  }
  for (const { payment } of paid) {
    const { paymentId } = payment;
    await eventually(async () => {
      const read = await system.payment().getPayment({ paymentId, userId: 0n }, callOptions());
      return read.payment?.refunds[0]?.status === RefundStatus.REFUND_STATUS_SUCCEEDED;
    }, 'the refund has gone back');
  }
});

test('openings that will fail for a day keep nobody from paying, and their orders can be closed', async () => {
  const stuck = await Promise.all(Array.from({ length: 14 }, () => makeOrder(system, skuId)));
  const open = (each: { orderId: bigint; userId: bigint }, requestId = 'first') =>
    system.payment().createPayment({ ...each, requestId }, callOptions());
  for (const each of stuck) {
    await setKnobs(system, { storeErrors: true });
    assert.equal(await reasonOf(open(each)), 'OUTCOME_UNKNOWN');
    await setKnobs(system, {});
    // One error in three: the provider is not unwell.
    for (let count = 0; count < 2; count += 1) await beginOrder(system, skuId);
  }
  let trying: { stop(): Promise<void> } | undefined;
  const phases = await runTrial({
    groups: others(),
    ...times,
    bad: {
      async on() {
        trying = again(() => Promise.allSettled(stuck.map((each) => open(each))), 300);
      },
      off: async () => await trying?.stop(),
    },
  });
  assertNothingNoticed(phases);
  const [pays, ...rest] = stuck;
  assert(pays);
  assert.notEqual((await open(pays, 'second')).payment?.paymentUrl, '');
  for (const each of rest.slice(0, 6)) await cancel(system, each);
  await endTime(system, rest.slice(6));
  await Promise.all(rest.slice(6).map((each) => untilCancelled(system, each)));
});

test('a provider that takes 25 openings a second opens nearly 25 of 120, refuses the others at once, and closes as before', async () => {
  const perSecond = 25;
  // An order may be tried to be paid 20 times.
  const orders = await Promise.all(Array.from({ length: 150 }, () => makeOrder(system, skuId)));
  const begun = await beginOrders(system, skuId, 120);
  const crowd: Group = {
    perSecond: 120,
    async send(number) {
      const order = orders[number % orders.length] as (typeof orders)[number];
      const request = { ...order, requestId: `attempt-${number}` };
      try {
        await system.payment().createPayment(request, callOptions());
        return { outcome: 'made' };
      } catch (error) {
        return attemptOf(fromClientError(error).reason);
      }
    },
  };
  const groups = {
    crowd,
    cancellers: cancellers({ system, skuId, perSecond: 3 }, begun.slice(0, 60)),
    expiries: expiries({ system, skuId, perSecond: 3 }, begun.slice(60)),
  };
  const duringMs = 6_000;
  const phases = await runTrial({
    groups,
    beforeMs: 3_000,
    // Until it is known how many it takes.
    graceMs: 2_000,
    ...{ duringMs, recoveryMs: 500, afterMs: 2_000 },
    bad: {
      on: () => setKnobs(system, { limitPerSecond: perSecond }),
      off: () => setKnobs(system, {}),
    },
  });
  for (const name of ['cancellers', 'expiries'] as const) {
    assertUnharmed(phases[name], name);
    assertRecovered(phases[name], name);
  }
  const { during } = phases.crowd;
  const figures = JSON.stringify(during);
  const could = (perSecond * duringMs) / 1_000;
  assert(during.made >= could * 0.7 && during.made <= could * 1.3, `${could} could: ${figures}`);
  assert.equal(during.made + during.unserved, during.sent, figures);
  assert.deepEqual(Object.keys(during.reasons), ['OVERLOADED']);
  // Nobody was kept until his time was over.
  assert(during.otherMs.p99 < 2_000, figures);
  await beginOrder(system, skuId);
});
