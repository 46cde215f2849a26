import { setTimeout as sleep } from 'node:timers/promises';
import { Metadata } from 'nice-grpc';
import type { OrderServiceClient } from '../../gen/sluice/order/v1/order_service.ts';
import { fromClientError } from '../../services/runtime/refusal-status.ts';
import { refusalTable } from '../../services/runtime/refusals.ts';

/** What one attempt came to: done, refused for good, or not known. */
export type Outcome =
  | { readonly kind: 'ok'; readonly orderId: bigint; readonly replayed: boolean }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'unknown'; readonly reason: string };

/** An outcome, and whether no other attempt of its click was under way meanwhile. */
export type Answered = Outcome & { readonly alone?: boolean };

/** One click of one user, with everything that was answered to it, in order. */
export interface Click {
  readonly userId: bigint;
  readonly requestId: string;
  readonly lines: readonly { skuId: bigint; quantity: number }[];
  readonly outcomes: Answered[];
}

/** A small generator whose runs can be repeated from the printed seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The seed of this run: SLUICE_TEST_SEED, or a new one. Print it with every randomised test. */
export function runSeed(): number {
  return Number(process.env.SLUICE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
}

/** Attempts of each click: how many were begun and how many are answered. */
const attemptsOf = new WeakMap<Click, { begun: number; answered: number }>();

/** Makes one attempt, and adds its outcome to the click. */
export async function attempt(
  client: OrderServiceClient,
  click: Click,
  deadlineMs = 3_000,
): Promise<Outcome> {
  const attempts = attemptsOf.get(click) ?? { begun: 0, answered: 0 };
  attemptsOf.set(click, attempts);
  const before = attempts.answered;
  attempts.begun += 1;
  const outcome = await attemptOnce(client, click, deadlineMs);
  attempts.answered += 1;
  const alone = attempts.begun === before + 1;
  click.outcomes.push({ ...outcome, alone });
  return outcome;
}

async function attemptOnce(
  client: OrderServiceClient,
  { userId, requestId, lines }: Click,
  deadlineMs: number,
): Promise<Outcome> {
  const metadata = Metadata({
    'grpc-timeout': `${deadlineMs}m`,
    'x-deadline-left-ms': String(deadlineMs),
  });
  const signal = AbortSignal.timeout(deadlineMs + 500);
  try {
    const request = { userId, requestId, lines: [...lines] };
    const { order, replayed } = await client.createOrder(request, { metadata, signal });
    return { kind: 'ok', orderId: order?.orderId ?? 0n, replayed };
  } catch (error) {
    const { reason } = fromClientError(error);
    const kind = refusalTable[reason].http < 500 ? 'refused' : 'unknown';
    return { kind, reason };
  }
}

const knownTriesMax = 40;
const askAgainMs = 100;

/** Makes attempts until the outcome is known, as buyers do: any one of them may be lost on a machine that stands still. */
export async function attemptUntilKnown(
  client: OrderServiceClient,
  click: Click,
  deadlineMs?: number,
): Promise<Outcome> {
  for (let count = 1; ; count += 1) {
    const outcome = await attempt(client, click, deadlineMs);
    if (outcome.kind !== 'unknown' || count === knownTriesMax) return outcome;
    await sleep(askAgainMs);
  }
}

/** What a call that may be repeated answers, asked again while its outcome is unknown. @throws what it refuses */
export async function answered<Answer>(call: () => Promise<Answer>): Promise<Answer> {
  for (let count = 1; ; count += 1) {
    try {
      return await call();
    } catch (error) {
      const isRefusal = refusalTable[fromClientError(error).reason].http < 500;
      if (isRefusal || count === knownTriesMax) throw error;
    }
    await sleep(askAgainMs);
  }
}

export interface WorkloadOptions {
  readonly clients: () => readonly OrderServiceClient[];
  readonly seed: number;
  readonly skuIds: readonly bigint[];
  /** Users from 1 to this. */
  readonly users: number;
  /** Clicks under way at once. */
  readonly concurrency: number;
  /** Attempts of one click at most; unknown outcomes are tried again under the same request id. */
  readonly attemptsMax?: number;
  /** Rest of a buyer between two clicks, in milliseconds; bounds the rate. */
  readonly restMs?: number;
  /** Share of the clicks that are sent again although they were answered; default 0.05. */
  readonly repeatShare?: number;
  /** Share of the clicks whose order, if there is one, is cancelled right away. */
  readonly cancelShare?: number;
  /** Clicks at most, however long the workload runs. */
  readonly clicksMax?: number;
}

export interface Workload {
  readonly history: readonly Click[];
  stop(): Promise<void>;
}

/** Workloads of this process: two of one seed must not use the same request ids. */
let workloads = 0;

/** Buyers who click, wait, and click again when they got no answer, until stopped. */
export function startWorkload(options: WorkloadOptions): Workload {
  const { clients, seed, concurrency, attemptsMax = 4, restMs = 0 } = options;
  const { cancelShare = 0, repeatShare = 0.05 } = options;
  const { clicksMax = 20_000 } = options;
  const history: Click[] = [];
  workloads += 1;
  const label = `${seed}-${workloads}`;
  let stopped = false;

  async function buyer(index: number): Promise<void> {
    const random = seededRandom(seed + index * 7_919);
    while (!stopped && history.length < clicksMax) {
      const click = nextClick(random, options, `${label}-${index}-${history.length}`);
      history.push(click);
      for (let count = 0; count < attemptsMax; count += 1) {
        // Now and then an impatient buyer sends the same click twice at once.
        const copies = random() < 0.1 ? 2 : 1;
        const outcomes = await Promise.all(
          Array.from({ length: copies }, () => attempt(anyOf(clients(), random), click, 1_500)),
        );
        if (outcomes.every(({ kind }) => kind !== 'unknown')) break;
        if (stopped) break;
        await sleep(20 + random() * 80);
      }
      if (random() < repeatShare) await attempt(anyOf(clients(), random), click, 1_500);
      if (random() < cancelShare) await cancel(anyOf(clients(), random), click);
      if (restMs > 0) await sleep(restMs * 2 * random());
    }
  }

  const buyers = Array.from({ length: concurrency }, (_, index) => buyer(index));
  return {
    history,
    async stop() {
      stopped = true;
      await Promise.all(buyers);
    },
  };
}

/** One of them, drawn. */
export function anyOf<Thing>(all: readonly Thing[], random: () => number): Thing {
  return all[Math.floor(random() * all.length)] as Thing;
}

/** What a cancellation comes to is seen in the order's row; its answer may be lost. */
async function cancel(client: OrderServiceClient, { userId, outcomes }: Click): Promise<void> {
  for (const outcome of outcomes) {
    if (outcome.kind !== 'ok') continue;
    const signal = AbortSignal.timeout(1_500);
    await client
      .cancelOrder({ orderId: outcome.orderId, userId }, { signal })
      .catch(() => undefined);
    return;
  }
}

/** The next thing that some user wants: one or two SKUs, one or two units of each. */
export function nextClick(
  random: () => number,
  { skuIds, users }: Pick<WorkloadOptions, 'skuIds' | 'users'>,
  requestId: string,
): Click {
  const count = random() < 0.2 ? Math.min(2, skuIds.length) : 1;
  const lines = new Map<bigint, number>();
  while (lines.size < count) {
    const skuId = skuIds[Math.floor(random() * skuIds.length)] as bigint;
    lines.set(skuId, 1 + Math.floor(random() * 2));
  }
  return {
    userId: BigInt(1 + Math.floor(random() * users)),
    requestId,
    lines: [...lines].map(([skuId, quantity]) => ({ skuId, quantity })),
    outcomes: [],
  };
}
