import type { Order } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { literal, type PoolConnection } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import {
  addStep,
  beginPayment,
  type LockedOrder,
  type LockPatience,
  lockOrders,
  writeChanges,
} from './change-rows.ts';
import { isHidden } from './order.ts';
import type { CurrentOrder, OrderStep } from './order-changes.ts';
import { slotOfOrder } from './order-id.ts';
import { insertOutboxSql } from './order-rows.ts';
import { type OrderShards, type SlotRoutes, tableSuffix } from './order-shards.ts';

/** What a use case does to an order, decided from the order as it is under its lock. */
export interface Decision<Answer> {
  /** Versions to add, in order; none leaves the order as it is. */
  readonly steps?: readonly OrderStep[];
  /** Notes that a session with the provider may be open; adds no version. */
  readonly beginsPayment?: boolean;
  readonly answer: Answer;
}

export interface OrderChange<Answer> {
  /** Names the use case in failpoints: `order.before_<name>_commit`. */
  readonly name: string;
  readonly orderId: bigint;
  /** The buyer; 0 means any user's order, for internal callers. */
  readonly userId: bigint;
  /** Decides; a Refusal that it throws refuses this change alone. May run again after a deadlock. */
  readonly decide: (current: CurrentOrder) => Decision<Answer>;
}

export interface ChangedOrder<Answer> {
  readonly answer: Answer;
  /** As it is after the commit. */
  readonly order: Order;
  /** MySQL's time of the transaction. */
  readonly now: Date;
}

export type Change = OrderChange<unknown>;
export type Outcome = ChangedOrder<unknown> | 'moved' | Error;

export interface ChangeTransactionOptions {
  readonly shards: OrderShards;
  /** Called after a commit that left an outbox row. */
  readonly onCommit: (database: number, changed: readonly Order[]) => void;
}

/**
 * One transaction for all changes, which `routes` leads to one database: locks their orders, decides
 * each, writes what was decided. @throws as a transaction of the database; then `outcomes` is untouched
 */
export async function changeTogether(
  { shards, onCommit }: ChangeTransactionOptions,
  routes: SlotRoutes,
  index: number,
  changes: readonly Change[],
  outcomes: Map<Change, Outcome>,
  deadline: Deadline,
  { attempts, patience }: { readonly attempts: number; readonly patience: LockPatience },
): Promise<void> {
  const options = { deadline, mapVersion: routes.version, attempts };
  const { decided, wrote, changed } = await shards
    .database(index)
    .transaction(options, async (connection, now) => {
      const { locked, busy } = await lockOrders(connection, idsByTable(routes, changes), patience);
      const decide = (change: Change): Outcome =>
        busy.has(change.orderId) ? beingChanged() : decideOne(locked, change, now);
      const results = new Map(changes.map((change) => [change, decide(change)]));
      const written = await write(connection, [...locked.values()]);
      if (written.wrote) await hit('before', changes);
      return { decided: results, ...written };
    });
  if (wrote) await hit('after', changes);
  for (const [change, outcome] of decided) outcomes.set(change, outcome);
  if (changed.length > 0) onCommit(index, changed);
}

/** Another transaction has locked the order; nothing was done. */
export function beingChanged(cause?: unknown): Refusal {
  return new Refusal('OVERLOADED', 'The order is being changed', { cause });
}

/** @returns whether anything was written, and the orders that have a new version */
async function write(
  connection: PoolConnection,
  locked: readonly LockedOrder[],
): Promise<{ wrote: boolean; changed: Order[] }> {
  const wrote = await writeChanges(connection, locked);
  const changed = locked.filter(({ events }) => events.length > 0);
  if (changed.length > 0) {
    const events = changed.flatMap((one) => one.events);
    await connection.query(literal(insertOutboxSql(events)));
  }
  return { wrote, changed: changed.map(({ stored }) => stored.order) };
}

/** Several changes of one order in a batch see each other, in their order. */
function decideOne(locked: Map<bigint, LockedOrder>, change: Change, now: Date): Outcome {
  const row = locked.get(change.orderId);
  const order = row?.stored.order;
  if (
    row === undefined ||
    order === undefined ||
    isHidden(order.status) ||
    (change.userId !== 0n && change.userId !== order.userId)
  ) {
    return new Refusal('NOT_FOUND', 'There is no such order');
  }
  try {
    const { paymentBegun } = row.stored;
    const {
      steps = [],
      beginsPayment = false,
      answer,
    } = change.decide({
      order,
      paymentBegun,
      now,
    });
    for (const step of steps) addStep(row, step, now);
    if (beginsPayment) beginPayment(row);
    return { answer, order: row.stored.order, now };
  } catch (error) {
    return error as Error;
  }
}

function idsByTable(routes: SlotRoutes, changes: readonly Change[]): Map<string, bigint[]> {
  const ids = [...new Set(changes.map(({ orderId }) => orderId))].sort((a, b) => (a < b ? -1 : 1));
  return Map.groupBy(ids, (orderId) => tableSuffix(routes.tableOf(slotOfOrder(orderId))));
}

async function hit(moment: 'before' | 'after', changes: readonly Change[]): Promise<void> {
  if (!failpoints.on) return;
  for (const [name, group] of Map.groupBy(changes, (change) => change.name)) {
    const orderIds = group.map(({ orderId }) => orderId);
    await failpoints.hit(`order.${moment}_${name}_commit`, { orderIds });
  }
}
