import { CouldNotLook } from '../could-not-look.ts';
import { type EventGroup, eventGroups, type GroupProgress, type GroupReader } from '../groups.ts';
import { readClock, type Stores } from '../stores.ts';
import type { Clock } from './promise.ts';

/** Sent mails are pruned after this many days at the earliest, so that older ones are not missed. */
export const mailsKeptDays = 7;
const secondsADay = 86_400;
/** An event reaches Kafka this long after its order changed, and the clocks of both differ by less. */
const publishedWithinSeconds = 10;

/**
 * Reads the moments that a look compares with. Rows that are read after it have the effects of everything that the clock
 * calls consumed.
 *
 * @param groups undefined if nobody wants to know how far they are
 */
export async function readAuditClock(
  stores: Stores,
  groups: GroupReader | undefined,
  graceSeconds: number,
): Promise<Clock> {
  const [database] = stores.orders;
  if (database === undefined) throw new Error('there is no order database');
  const [{ now, before }, { before: mailsKeptSince }] = await Promise.all([
    readClock(database, graceSeconds),
    readClock(database, mailsKeptDays * secondsADay),
  ]);
  const progress = await readProgress(groups);
  const untilOf = (group: EventGroup): string => {
    const one = progress.find((each) => each.group === group);
    return one === undefined ? '' : consumedUntil(now, one, graceSeconds);
  };
  const until = eventGroups.map((group) => [group, untilOf(group)] as const);
  return {
    now,
    settledBefore: before,
    mailsKeptSince,
    consumedUntil: Object.fromEntries(until) as Record<EventGroup, string>,
  };
}

/** Whom Kafka does not answer for has consumed nothing that we know of; the check of P7 says so itself. */
async function readProgress(groups: GroupReader | undefined): Promise<readonly GroupProgress[]> {
  try {
    return (await groups?.read()) ?? [];
  } catch (error) {
    if (error instanceof CouldNotLook) return [];
    throw error;
  }
}

/**
 * What orders became until when is consumed. Kafka knows when it got an event, not when its order changed: while something
 * is left to consume, the time that an event may spend in the outbox is taken off, which is the grace.
 */
function consumedUntil(
  now: string,
  { eventsBehind, consumedAgeSeconds }: GroupProgress,
  graceSeconds: number,
): string {
  if (eventsBehind === 0n) return now;
  if (!Number.isFinite(consumedAgeSeconds)) return '';
  const agoSeconds = consumedAgeSeconds + Math.max(graceSeconds, publishedWithinSeconds);
  const time = Date.parse(`${now.replace(' ', 'T')}Z`) - agoSeconds * 1_000;
  return new Date(time).toISOString().slice(0, 23).replace('T', ' ');
}
