import { CouldNotLook } from '../could-not-look.ts';
import { type EventGroup, eventGroups, type GroupProgress, type GroupReader } from '../groups.ts';
import { readClock, type Stores } from '../stores.ts';
import type { Clock } from './promise.ts';

/** Sent mails are pruned after this many days at the earliest, so that older ones are not missed. */
export const mailsKeptDays = 7;
const secondsADay = 86_400;
/** An event is of this long after its order changed, and clocks differ by less. */
const lateBySeconds = 10;

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
  // Before the groups: what has left the outbox since then is in Kafka when Kafka is asked.
  const waitsSince = await oldestInOutboxes(stores);
  const progress = await readProgress(groups);
  const untilOf = (group: EventGroup): string => {
    const one = progress.find((each) => each.group === group);
    if (one === undefined) return '';
    const until = consumedUntil(now, one, graceSeconds);
    return waitsSince === undefined || until < waitsSince ? until : waitsSince;
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

/** Until when no order's event waits to be published; undefined if none does. Rows are in the order of their time, about. */
async function oldestInOutboxes({ orders }: Stores): Promise<string | undefined> {
  const sql = 'SELECT CONCAT(create_time) FROM outbox ORDER BY id LIMIT 1';
  const oldest = await Promise.all(orders.map((database) => database.rows(sql)));
  const [first] = oldest.flatMap((rows) => rows.map(([time]) => String(time))).sort();
  return first === undefined ? undefined : earlier(first, lateBySeconds);
}

/**
 * What orders became until when is consumed, as far as Kafka has it. Events come about in the order of their time: while
 * something is left to consume, the time by which one may be overtaken in the outbox is taken off, which is the grace.
 */
function consumedUntil(
  now: string,
  { eventsBehind, consumedAgeSeconds }: GroupProgress,
  graceSeconds: number,
): string {
  if (eventsBehind === 0n) return now;
  if (!Number.isFinite(consumedAgeSeconds)) return '';
  return earlier(now, consumedAgeSeconds + Math.max(graceSeconds, lateBySeconds));
}

/** A DATETIME(3) text of some seconds before. */
function earlier(text: string, seconds: number): string {
  const time = Date.parse(`${text.replace(' ', 'T')}Z`) - seconds * 1_000;
  return new Date(time).toISOString().slice(0, 23).replace('T', ' ');
}
