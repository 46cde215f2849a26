import { setTimeout as sleep } from 'node:timers/promises';
import type { CallOptions } from 'nice-grpc';
import type { Payment } from '../../gen/sluice/payment/v1/payment.ts';
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { fromClientError } from '../../services/runtime/refusal-status.ts';
import { refusalTable } from '../../services/runtime/refusals.ts';
import type { System } from './system.ts';
import { anyOf, attempt, type Click, nextClick, seededRandom } from './workload.ts';

/** What a step of an order's life came to. */
export type StepOutcome =
  | { readonly kind: 'ok' }
  | { readonly kind: 'refused' | 'unknown'; readonly reason: string };

/** One thing that was done to an order after it was made. */
export interface Step {
  readonly what: 'cancel' | 'create payment' | 'pay' | 'refund' | 'adjust';
  readonly orderId: bigint;
  readonly outcome: StepOutcome;
}

export interface LifeOptions {
  readonly system: System;
  readonly seed: number;
  /** Keeps the request ids of two workloads of one seed apart. */
  readonly label: string;
  readonly skuIds: readonly bigint[];
  readonly users: number;
  /** Buyers at once. */
  readonly concurrency: number;
  /** Rest of a buyer between two orders, in milliseconds; bounds the rate. */
  readonly restMs: number;
  /** Orders at most, however long the workload runs. */
  readonly ordersMax?: number;
}

export interface LifeWorkload {
  readonly history: readonly Click[];
  readonly steps: readonly Step[];
  stop(): Promise<void>;
}

const attemptsMax = 6;
/** What the simulator asks of callers of its API in demo mode. */
const asMerchant = { authorization: `Bearer ${demoTokenSecret}` };
const callMs = 3_000;

/**
 * Buyers who buy, retry, pay once or twice or late or never, cancel, and get refunds, while an operator
 * adds and recalls stock. Everything is drawn from the seed; only the timing differs between two runs.
 */
export function startLifeWorkload(options: LifeOptions): LifeWorkload {
  const { system, seed, label, concurrency, ordersMax = 5_000 } = options;
  const history: Click[] = [];
  const steps: Step[] = [];
  let stopped = false;

  async function buyer(index: number): Promise<void> {
    const random = seededRandom(seed + index * 7_919);
    while (!stopped && history.length < ordersMax) {
      const click = nextClick(random, options, `${label}-${seed}-${index}-${history.length}`);
      history.push(click);
      const orderId = await buy(system, click, random);
      if (orderId !== undefined) await live({ system, steps, random }, orderId, click.userId);
      await sleep(options.restMs * 2 * random());
    }
  }

  async function operator(): Promise<void> {
    const random = seededRandom(seed + 13);
    for (let count = 0; !stopped && count < ordersMax; count += 1) {
      const skuId = anyOf(options.skuIds, random);
      const request = {
        skuId,
        delta: BigInt(Math.floor(random() * 40) - 15),
        requestId: `adjust-${label}-${seed}-${count}`,
      };
      if (request.delta === 0n) continue;
      // Sent twice: it counts once.
      for (let copy = 0; copy < 2; copy += 1) {
        const adjusting = system.admin.adjustStock(request, callOptions());
        steps.push({ what: 'adjust', orderId: 0n, outcome: await outcomeOf(adjusting) });
      }
      await sleep(options.restMs * 4);
    }
  }

  const running = [...Array.from({ length: concurrency }, (_, index) => buyer(index)), operator()];
  return {
    history,
    steps,
    async stop() {
      stopped = true;
      await Promise.all(running);
    },
  };
}

interface Living {
  readonly system: System;
  readonly steps: Step[];
  readonly random: () => number;
}

/** Buys with retries of unknown outcomes. @returns the order's id, if there is one for sure */
async function buy(
  system: System,
  click: Click,
  random: () => number,
): Promise<bigint | undefined> {
  for (let count = 0; count < attemptsMax; count += 1) {
    const client = system.order(Math.floor(random() * system.orders.length));
    const outcome = await attempt(client, click, callMs);
    if (outcome.kind === 'ok') return outcome.orderId;
    if (outcome.kind === 'refused') return undefined;
    await sleep(50 + random() * 150);
  }
  return undefined;
}

/** One of the ways that an order's life can go. */
async function live(living: Living, orderId: bigint, userId: bigint): Promise<void> {
  const { system, steps, random } = living;
  const cancel = async (): Promise<void> => {
    const call = () => system.order(0).cancelOrder({ orderId, userId }, callOptions());
    steps.push({ what: 'cancel', orderId, outcome: await settled(call, random) });
  };
  const way = random();
  if (way < 0.12) return; // It expires.
  if (way < 0.22) return await cancel();
  const first = await begin(living, orderId, userId, 'first');
  if (way < 0.28) return; // Begun and left alone: its session is voided when it expires.
  if (way < 0.36) {
    await Promise.all([pay(living, orderId, first), cancel()]);
    return;
  }
  if (way < 0.46) {
    const second = await begin(living, orderId, userId, 'second');
    await Promise.all([pay(living, orderId, first), pay(living, orderId, second)]);
    return;
  }
  if (way < 0.52) await sleep(lateMs);
  await pay(living, orderId, first);
  if (way > 0.9) return await cancel();
  if (way > 0.75) await refund(living, orderId, first);
}

/** Longer than an order of these tests lives: what is paid after this is paid too late. */
const lateMs = 4_000;

async function begin(
  { system, steps, random }: Living,
  orderId: bigint,
  userId: bigint,
  requestId: string,
): Promise<Payment | undefined> {
  let payment: Payment | undefined;
  const call = async (): Promise<void> => {
    const request = { orderId, userId, requestId };
    payment = (await system.payment().createPayment(request, callOptions())).payment;
  };
  steps.push({ what: 'create payment', orderId, outcome: await settled(call, random) });
  return payment;
}

/** What the buyer does on the provider's page, several times if the provider does not answer. */
async function pay(
  { system, steps, random }: Living,
  orderId: bigint,
  payment: Payment | undefined,
): Promise<void> {
  if (payment === undefined || payment.providerReference === '') return;
  const call = (): Promise<void> => paySession(system, payment.providerReference);
  steps.push({ what: 'pay', orderId, outcome: await settled(call, random) });
}

/** Pays a session at the simulator. @throws Error if it was not answered with success */
export async function paySession({ env }: Pick<System, 'env'>, reference: string): Promise<void> {
  const url = `${env.SLUICE_SIMULATOR_URL}/v1/sessions/${reference}/pay`;
  const response = await fetch(url, {
    method: 'POST',
    headers: asMerchant,
    signal: AbortSignal.timeout(callMs),
  });
  await response.body?.cancel();
  if (!response.ok) throw new Error(`the simulator answered ${response.status}`);
}

/** Sets the simulator's knobs; those not named are turned off. */
export async function setKnobs(
  { env }: Pick<System, 'env'>,
  knobs: Readonly<Record<string, unknown>>,
): Promise<void> {
  const response = await fetch(`${env.SLUICE_SIMULATOR_URL}/v1/knobs`, {
    method: 'PUT',
    headers: { ...asMerchant, 'content-type': 'application/json' },
    body: JSON.stringify(knobs),
  });
  if (!response.ok) throw new Error(`knobs: ${response.status} ${await response.text()}`);
}

/** An operator gives back a part, or everything with the units on sale again; each request is sent twice. */
async function refund(
  { system, steps, random }: Living,
  orderId: bigint,
  payment: Payment | undefined,
): Promise<void> {
  if (payment === undefined) return;
  const whole = random() < 0.5;
  const request = {
    paymentId: payment.paymentId,
    amount: whole
      ? undefined
      : { currencyCode: 'EUR', minorUnits: 1n + BigInt(Math.floor(random() * 900)) },
    requestId: `refund-${orderId}`,
    reason: 'the workload says so',
    restock: whole && random() < 0.5,
  };
  for (let copy = 0; copy < 2; copy += 1) {
    const call = () => system.payment().refundPayment(request, callOptions());
    steps.push({ what: 'refund', orderId, outcome: await settled(call, random) });
  }
}

/** Repeats a call while its outcome is unknown. */
async function settled(call: () => Promise<unknown>, random: () => number): Promise<StepOutcome> {
  let outcome: StepOutcome = { kind: 'unknown', reason: 'not asked' };
  for (let count = 0; count < attemptsMax; count += 1) {
    outcome = await outcomeOf(call());
    if (outcome.kind !== 'unknown') return outcome;
    await sleep(50 + random() * 150);
  }
  return outcome;
}

async function outcomeOf(call: Promise<unknown>): Promise<StepOutcome> {
  try {
    await call;
    return { kind: 'ok' };
  } catch (error) {
    const { reason } = fromClientError(error);
    return { kind: refusalTable[reason].http < 500 ? 'refused' : 'unknown', reason };
  }
}

function callOptions(): CallOptions {
  return { signal: AbortSignal.timeout(callMs) };
}
