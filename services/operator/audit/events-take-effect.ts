import type { EventGroup } from '../groups.ts';
import type { Database } from '../stores.ts';
import type { OrderPicture, OrderRow } from './order-picture.ts';
import type { OrderLook, PromiseCheck, StoresLook } from './promise.ts';
import { hold, isDead, isLive, refund, order as state, statusName, wasPaid } from './states.ts';
import { lookAtStatistics } from './user-statistics.ts';

/** P7: every event takes effect: in the ledger, the statistics, the warehouse and the mails. */
export const eventsTakeEffect: PromiseCheck = {
  id: 'P7',
  title: 'Events take effect, once',
  counts(picture, count) {
    count('orders', picture.orders.length);
    count('warehouse facts', picture.facts.length);
    if (picture.mail !== undefined) count('mails', 1);
  },
  lookAtOrder(look) {
    const { picture } = look;
    const { order } = picture;
    if (order === undefined || order.status === state.aborted) {
      lookAtEffectsOfNothing(look);
      return;
    }
    // A ticket of queued admission is no order yet, or never became one.
    if (!isLive(order.status) && order.status !== state.cancelled) return;
    if (!order.archived) lookAtLedger(look, order);
    lookAtCounted(look, order);
    lookAtFacts(look, order);
    lookAtMail(look, order);
  },
  async lookAtStores(look) {
    await lookAtOutboxes(look);
    await lookAtStatistics(look);
    await lookAtGroups(look);
  },
};

type Report = (kind: string, sentence: string) => void;

function reporterOf({ picture: { orderId }, report }: OrderLook): Report {
  return (kind, sentence) => report({ kind, sentence, orderId });
}

function lookAtEffectsOfNothing(look: OrderLook): void {
  const { orderId, counted, facts, mail } = look.picture;
  const where = [
    ...(counted ? ['statistics'] : []),
    ...(facts.length > 0 ? ['warehouse'] : []),
    ...(mail ? ['mails'] : []),
  ];
  if (where.length === 0) return;
  const sentence = `order ${orderId} does not exist, and is in the ${where.join(', ')}`;
  reporterOf(look)('effect-without-order', sentence);
}

/** What the order's state means for its holds; a cancelled one's are P5's business. */
function lookAtLedger(look: OrderLook, { status }: OrderRow): void {
  const { orderId, holds, refunds } = look.picture;
  if (isDead(status) || !wasPaid(status)) return;
  const restock = refunds.some((row) => row.restock && row.status === refund.succeeded);
  for (const row of holds) {
    const behind =
      row.state === hold.held || (status === state.refunded && restock && row.state === hold.sold);
    if (!behind) continue;
    const wanted = restock && status === state.refunded ? 'RESTOCKED' : 'SOLD';
    const sentence = `order ${orderId} is ${statusName(status)}, and its hold of SKU ${row.skuId} is not ${wanted} yet`;
    look.report({ kind: 'ledger-behind', sentence, orderId, skuId: row.skuId });
  }
}

function lookAtCounted(look: OrderLook, order: OrderRow): void {
  const { orderId, counted } = look.picture;
  const flaw = reporterOf(look);
  if (counted?.version !== order.version) {
    if (isUnderWay(look, order, 'user-statistics')) return;
    const sentence =
      counted === undefined
        ? `order ${orderId} is not in the user statistics`
        : `order ${orderId} is at version ${order.version}, the user statistics have ${counted.version}`;
    flaw('statistics-behind', sentence);
  } else if (
    counted.status !== order.status ||
    counted.totalMinor !== order.totalMinor ||
    counted.refundedMinor !== order.refundedMinor
  ) {
    const has = `${statusName(counted.status)}, total ${counted.totalMinor}, refunded ${counted.refundedMinor}`;
    flaw('statistics-differ', `order ${orderId} is otherwise in the user statistics: ${has}`);
  }
}

function lookAtFacts(look: OrderLook, order: OrderRow): void {
  const { orderId, facts, items } = look.picture;
  const flaw = reporterOf(look);
  const version = facts.find((fact) => fact.version !== order.version)?.version;
  const isMissing = order.archived ? facts.length === 0 : facts.length < items.length;
  if ((isMissing || version !== undefined) && isUnderWay(look, order, 'warehouse')) return;
  if (isMissing) {
    flaw(
      'warehouse-behind',
      `order ${orderId} has ${items.length} lines, the warehouse has ${facts.length}`,
    );
  } else if (version !== undefined) {
    flaw(
      'warehouse-behind',
      `order ${orderId} is at version ${order.version}, the warehouse has ${version}`,
    );
  } else if (!factsAgree(look.picture, order)) {
    flaw('warehouse-differs', `order ${orderId} is otherwise in the warehouse`);
  }
}

function factsAgree({ facts, items }: OrderPicture, order: OrderRow): boolean {
  if (!order.archived && facts.length !== items.length) return false;
  return facts.every((fact) => {
    const item = items.find(({ skuId }) => skuId === fact.skuId);
    const lineAgrees =
      order.archived ||
      (item?.quantity === fact.quantity && item.unitPriceMinor === fact.unitPriceMinor);
    return (
      lineAgrees &&
      fact.status === statusName(order.status) &&
      fact.totalMinor === order.totalMinor &&
      fact.refundedMinor === order.refundedMinor &&
      fact.paymentId === order.paymentId
    );
  });
}

/** Each paid order gets a confirmation. Mails wait for their turn and for the mail server, which breaks no promise. */
function lookAtMail(look: OrderLook, order: OrderRow): void {
  const { orderId, mail, history } = look.picture;
  const { settledBefore, mailsKeptSince } = look.clock;
  if (mail === undefined) {
    const paidTime = history.find(({ to }) => to === state.paid)?.time ?? '';
    if (order.archived || !wasPaid(order.status) || paidTime <= mailsKeptSince) return;
    if (isUnderWay(look, order, 'confirmation-mail')) return;
    reporterOf(look)(
      'mail-missing',
      `order ${orderId} was paid, and no confirmation is on its way`,
    );
  } else if (!mail.isSent && (mail.nextTime === null || mail.nextTime <= settledBefore)) {
    const why = mail.nextTime === null ? 'was given up' : `is due since ${mail.nextTime} UTC`;
    const sentence = `the confirmation of order ${orderId} ${why} after ${mail.attempts} attempts`;
    look.report({ kind: 'mail-not-sent', sentence, orderId, isFinding: true });
  }
}

/** Whether the group may have the order's newest event still before it: being behind breaks no promise. */
function isUnderWay({ clock }: OrderLook, { updateTime }: OrderRow, group: EventGroup): boolean {
  return updateTime > clock.consumedUntil[group];
}

/** How far the groups are behind. Within the grace that is work under way; beyond it somebody may want to know. */
async function lookAtGroups(look: StoresLook): Promise<void> {
  const progress = await look.readGroups();
  for (const { group, eventsBehind, consumedAgeSeconds } of progress) {
    if (eventsBehind === 0n) continue;
    look.count('events to consume', Number(eventsBehind));
    if (consumedAgeSeconds <= look.graceSeconds) continue;
    const until = Number.isFinite(consumedAgeSeconds)
      ? `has consumed everything until ${utcBefore(consumedAgeSeconds)} UTC`
      : 'has consumed nothing yet';
    const sentence = `the group ${group} is ${eventsBehind.toLocaleString('en')} events behind and ${until}; orders that changed later are not judged by it`;
    look.report({ kind: 'group-behind', sentence, isFinding: true });
  }
}

function utcBefore(ageSeconds: number): string {
  const time = new Date(Date.now() - ageSeconds * 1_000);
  return time.toISOString().slice(0, 19).replace('T', ' ');
}

/** Rows of one outbox that are counted at a time: each may hold the events of 500 orders. */
const outboxStep = 5_000;

/** Rows leave the outbox when Kafka has them. */
async function lookAtOutboxes(look: StoresLook): Promise<void> {
  for (const database of look.stores.orders) {
    const { rows, late, oldest } = await countOutbox(database, look.graceSeconds);
    look.count('outbox rows', rows);
    await lookAtSetAside(look, database);
    if (late === 0) continue;
    look.report({
      kind: 'outbox-late',
      sentence: `${database.name} has ${late} outbox rows that are not published, the oldest since ${oldest} UTC`,
    });
  }
}

/** What was set aside waits for an operator; whatever it should have told is judged by itself. */
async function lookAtSetAside(look: StoresLook, database: Database): Promise<void> {
  const [row] = await database.rows(
    `SELECT COUNT(*), CONCAT(MIN(set_aside_time)) FROM
       (SELECT set_aside_time FROM outbox_set_aside WHERE next_time IS NULL LIMIT ${outboxStep}) aside`,
  );
  const rows = Number(row?.[0]);
  if (rows === 0) return;
  const count = rows < outboxStep ? String(rows) : `${rows} or more`;
  const sentence = `${database.name} has ${count} outbox rows that were set aside, one since ${row?.[1]} UTC: ./sluice dlq list`;
  look.report({ kind: 'outbox-set-aside', sentence, isFinding: true });
}

async function countOutbox(
  database: Database,
  graceSeconds: number,
): Promise<{ rows: number; late: number; oldest: string }> {
  const total = { rows: 0, late: 0, oldest: '' };
  for (let after = '0'; ; ) {
    const [row] = await database.rows(
      `SELECT COUNT(*), COALESCE(SUM(create_time <= UTC_TIMESTAMP(3) - INTERVAL ${graceSeconds} SECOND), 0),
         CONCAT(MIN(create_time)), MAX(id)
       FROM (SELECT id, create_time FROM outbox WHERE id > ${after} ORDER BY id LIMIT ${outboxStep}) page`,
    );
    const rows = Number(row?.[0]);
    total.rows += rows;
    total.late += Number(row?.[1]);
    const oldest = String(row?.[2] ?? '');
    if (oldest !== '' && (total.oldest === '' || oldest < total.oldest)) total.oldest = oldest;
    if (rows < outboxStep) return total;
    after = String(row?.[3]);
  }
}
