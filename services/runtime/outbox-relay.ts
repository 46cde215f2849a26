import { setTimeout as sleep } from 'node:timers/promises';
import { Deadline } from './deadline.ts';
import type { EventPublisher } from './event-publisher.ts';
import { failpoints } from './failpoints.ts';
import type { Log } from './log.ts';
import { type Loop, startLoop } from './loop.ts';
import type { Pool } from './mysql.ts';
import {
  type ClaimedRows,
  claimRows,
  deleteRows,
  giveRowsBack,
  keepingClaim,
} from './outbox-rows.ts';
import { claimWaiting, setEventsAside, setRowsAside, settleWaiting } from './outbox-set-aside.ts';
import { publishRows, readRows } from './publish-outbox.ts';
import { RecentAttempts } from './recent-attempts.ts';

/**
 * Between two rounds rows gather, because each round costs two durable commits and up to one request
 * for each partition, whatever it carries. The first event after a rest goes at once.
 */
const gatherMs = 200;
/** Kafka's own retries end within it; a partition that hangs beside others is left sooner. */
const publishMs = 10_000;
const idleMs = 200;
/** A round ends well after so long, in milliseconds, also while there are always more rows: its age shows that it works. */
const roundMsMax = 1_000;
/** How often events that were set aside for a while are looked for. */
const againMs = 1_000;

export interface OutboxRelay {
  /** Looks for rows now; called after a commit that wrote one. */
  wake(): void;
  stop(): Promise<void>;
}

export interface OutboxRelayOptions {
  readonly name: string;
  readonly pool: Pool;
  readonly topic: string;
  readonly publisher: EventPublisher;
  readonly log: Log;
}

/**
 * Publishes what committed transactions left in `outbox`, at least once: claims the oldest rows in
 * a transaction of its own, publishes them, deletes them. Nothing remote happens inside a
 * transaction, and a relay that dies in between only causes a repetition. What cannot be published
 * while other events can is set aside, and holds up none of them.
 */
export function startOutboxRelay(options: OutboxRelayOptions): OutboxRelay {
  const { name, log } = options;
  const fresh: Loop = startLoop({
    name: `relay.${name}`,
    intervalMs: idleMs,
    log,
    run: (signal) =>
      untilNoneIsLeft(
        () => relayOnce(options),
        () => fresh.wake(),
        signal,
      ),
  });
  const attempts = new RecentAttempts();
  const waiting: Loop = startLoop({
    name: `relay.${name}.waiting`,
    intervalMs: againMs,
    log,
    async run(signal) {
      await untilNoneIsLeft(
        () => tryAgainOnce(options, attempts),
        () => waiting.wake(),
        signal,
      );
      attempts.check(0);
    },
  });
  return {
    wake: fresh.wake,
    async stop() {
      await Promise.all([fresh.stop(), waiting.stop()]);
    },
  };
}

/** Goes on while there are rows; after a while in a new round of the loop. */
async function untilNoneIsLeft(
  once: () => Promise<number>,
  nextRound: () => void,
  signal: AbortSignal,
): Promise<void> {
  const untilMs = performance.now() + roundMsMax;
  while (!signal.aborted && (await once()) > 0) {
    await gather(signal);
    if (performance.now() >= untilMs) return nextRound();
  }
}

async function relayOnce(options: OutboxRelayOptions): Promise<number> {
  const claimed = await claimRows(options.pool);
  if (claimed.rows.length > 0) {
    await keepingClaim(options.pool, claimed, () => publishClaimed(options, claimed));
  }
  return claimed.rows.length;
}

async function publishClaimed(options: OutboxRelayOptions, claimed: ClaimedRows): Promise<void> {
  const { pool, topic, publisher, log, name } = options;
  const { owner } = claimed;
  const ids = claimed.rows.map(({ id }) => id);
  const { readable, unreadable } = readRows(claimed.rows);
  const rows = readable.map(({ row }) => row);
  let unpublished: Awaited<ReturnType<typeof publishRows>>;
  try {
    await setRowsAside(pool, owner, unreadable);
    if (failpoints.on) await failpoints.hit('relay.before_publish', { ids });
    const deadline = Deadline.after(publishMs);
    unpublished = await publishRows(publisher, topic, readable, deadline, { skipStuck: true });
  } catch (error) {
    await giveRowsBack(pool, claimed).catch(() => undefined);
    throw error;
  }
  if (failpoints.on) await failpoints.hit('relay.after_publish', { ids });
  const incomplete = new Set(unpublished.map(({ row }) => row));
  await deleteRows(pool, { owner, rows: rows.filter((row) => !incomplete.has(row)) });
  await setEventsAside(pool, owner, unpublished);
  const refused = unpublished.filter(({ refusal }) => refusal !== undefined);
  const reason = unreadable[0]?.reason ?? refused[0]?.refusal;
  if (reason !== undefined) {
    const counts = { rows: unreadable.length, events: refused.length };
    log.error({ relay: name, ...counts, reason }, 'outbox rows are set aside for an operator');
  }
  if (failpoints.on) await failpoints.hit('relay.after_delete', { ids });
}

/** Tries events again whose partition took nothing. Answers how many rows were tried. */
async function tryAgainOnce(
  { pool, topic, publisher }: OutboxRelayOptions,
  attempts: RecentAttempts,
): Promise<number> {
  const rows = await claimWaiting(pool);
  if (rows.length === 0) return 0;
  const { readable, unreadable } = readRows(rows);
  const deadline = Deadline.after(publishMs);
  // Undefined if Kafka took none of them.
  const unpublished = await publishRows(publisher, topic, readable, deadline).catch((error) => {
    attempts.failed(error);
    return undefined;
  });
  if (unpublished !== undefined) attempts.succeeded();
  for (const { row, reason } of unreadable) {
    await settleWaiting(pool, row, { kind: 'unreadable', reason });
  }
  for (const { row, messages } of readable) {
    const left = unpublished?.filter((event) => event.row === row);
    const isUnchanged =
      left === undefined ||
      (left.length === messages.length && left.every(({ refusal }) => refusal === undefined));
    await settleWaiting(pool, row, isUnchanged ? { kind: 'waits' } : { kind: 'tried', left });
  }
  return rows.length;
}

async function gather(signal: AbortSignal): Promise<void> {
  await sleep(gatherMs, undefined, { signal }).catch(() => undefined);
}
