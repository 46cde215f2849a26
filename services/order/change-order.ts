import type { Order } from '../../gen/sluice/order/v1/order.ts';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { mysqlErrno, type PoolConnection } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import {
  addStep,
  beginPayment,
  type LockedOrder,
  lockOrders,
  writeChanges,
} from './change-rows.ts';
import { isHidden } from './order.ts';
import type { CurrentOrder, OrderStep } from './order-changes.ts';
import { StaleSlotMap } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';
import { insertOutboxRow } from './order-rows.ts';
import { type OrderShards, tableSuffix } from './order-shards.ts';

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

/**
 * Changes one order: its state, its history and its event are written in one transaction, or none
 * of them is. Changes that come together share a transaction, and each is answered by itself.
 *
 * @throws Refusal NOT_FOUND (also another user's order), what `decide` threw, OVERLOADED or
 *   DEPENDENCY_DOWN if nothing was done, OUTCOME_UNKNOWN
 */
export type ChangeOrder = <Answer>(
  change: OrderChange<Answer>,
  deadline: Deadline,
) => Promise<ChangedOrder<Answer>>;

export interface ChangeOrderOptions {
  readonly shards: OrderShards;
  readonly queueDepthMax: number;
  readonly log: Log;
  readonly metrics?: BatcherMetrics;
  /** Called after a commit that left an outbox row. */
  readonly onCommit: (database: number, changed: readonly Order[]) => void;
}

type Outcome = ChangedOrder<unknown> | 'moved' | Error;
type Change = OrderChange<unknown>;

/** Changes in one transaction at most: locks stay short. */
const changesMax = 200;
const inFlightMax = 2;
/** A map that has another version this often in a row is moving all the time. */
const routesMax = 4;
/** A deadlock or lock wait runs one change again; a batch goes apart instead. */
const attemptsAloneMax = 2;

export function createChangeOrder(options: ChangeOrderOptions): {
  changeOrder: ChangeOrder;
  close(): Promise<void>;
} {
  const { shards, queueDepthMax, metrics } = options;
  const batcher = new Batcher<Change, ChangedOrder<unknown> | 'moved'>({
    name: 'order_change',
    entriesMax: changesMax,
    inFlightMax,
    queueDepthMax,
    keyOf: ({ orderId }) => shards.databaseOf(slotOfOrder(orderId)),
    run: (changes, { deadline }) => changeBatch(options, changes, deadline),
    ...(metrics ? { metrics } : {}),
  });

  async function changeOrder<Answer>(
    change: OrderChange<Answer>,
    deadline: Deadline,
  ): Promise<ChangedOrder<Answer>> {
    for (let route = 0; route < routesMax; route += 1) {
      const changed = await batcher.add(change, deadline);
      if (changed !== 'moved') return changed as ChangedOrder<Answer>;
    }
    throw new Refusal('OVERLOADED', 'The order is being moved');
  }
  return { changeOrder, close: () => batcher.close() };
}

async function changeBatch(
  options: ChangeOrderOptions,
  changes: readonly Change[],
  deadline: Deadline,
): Promise<Outcome[]> {
  const { shards } = options;
  const index = shards.databaseOf(slotOfOrder((changes[0] as Change).orderId));
  const here = changes.filter(({ orderId }) => shards.databaseOf(slotOfOrder(orderId)) === index);
  const outcomes = new Map<Change, Outcome>();
  if (here.length === 0) return changes.map(() => 'moved');
  try {
    const attempts = here.length > 1 ? 1 : attemptsAloneMax;
    await changeTogether(options, index, here, outcomes, deadline, attempts);
  } catch (error) {
    const apart = mysqlErrno(error) !== undefined && here.length > 1;
    if (apart) await changeApart(options, index, here, outcomes, deadline);
    else await failAll(options, index, here, outcomes, error, deadline);
  }
  return changes.map((change) => outcomes.get(change) ?? 'moved');
}

/** One of them waits for a lock or is not accepted; the others must not suffer. */
async function changeApart(
  options: ChangeOrderOptions,
  index: number,
  changes: readonly Change[],
  outcomes: Map<Change, Outcome>,
  deadline: Deadline,
): Promise<void> {
  for (const change of changes) {
    try {
      await changeTogether(options, index, [change], outcomes, deadline, attemptsAloneMax);
    } catch (error) {
      await failAll(options, index, [change], outcomes, error, deadline);
    }
  }
}

/** A change that has no outcome after this has moved to another database. */
async function failAll(
  { shards, log }: ChangeOrderOptions,
  index: number,
  changes: readonly Change[],
  outcomes: Map<Change, Outcome>,
  error: unknown,
  deadline: Deadline,
): Promise<void> {
  if (error instanceof StaleSlotMap) {
    await shards.refresh(index, deadline).catch((cause) => {
      log.warn({ err: cause, database: index }, 'the slot map could not be read again');
    });
    return;
  }
  for (const change of changes) outcomes.set(change, refusalOf(error, log));
}

/** A complaint of the server was rolled back; what else went wrong may have struck after the commit. */
function refusalOf(error: unknown, log: Log): Refusal {
  if (error instanceof Refusal) return error;
  log.warn({ err: error }, 'a change of orders failed');
  if (mysqlErrno(error) !== undefined) {
    return new Refusal('OVERLOADED', 'The order is being changed', { cause: error });
  }
  return new Refusal('OUTCOME_UNKNOWN', undefined, { cause: error });
}

async function changeTogether(
  { shards, onCommit }: ChangeOrderOptions,
  index: number,
  changes: readonly Change[],
  outcomes: Map<Change, Outcome>,
  deadline: Deadline,
  attempts: number,
): Promise<void> {
  const options = { deadline, mapVersion: shards.version, attempts };
  const { decided, wrote, changed } = await shards
    .database(index)
    .transaction(options, async (connection, now) => {
      const locked = await lockOrders(connection, idsByTable(shards, changes));
      const results = new Map(changes.map((change) => [change, decideOne(locked, change, now)]));
      const written = await write(connection, [...locked.values()]);
      if (written.wrote) await hit('before', changes);
      return { decided: results, ...written };
    });
  if (wrote) await hit('after', changes);
  for (const [change, outcome] of decided) outcomes.set(change, outcome);
  if (changed.length > 0) onCommit(index, changed);
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
    await insertOutboxRow(connection, events);
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

function idsByTable(shards: OrderShards, changes: readonly Change[]): Map<string, bigint[]> {
  const ids = [...new Set(changes.map(({ orderId }) => orderId))].sort((a, b) => (a < b ? -1 : 1));
  return Map.groupBy(ids, (orderId) => tableSuffix(shards.tableOf(slotOfOrder(orderId))));
}

async function hit(moment: 'before' | 'after', changes: readonly Change[]): Promise<void> {
  if (!failpoints.on) return;
  for (const [name, group] of Map.groupBy(changes, (change) => change.name)) {
    const orderIds = group.map(({ orderId }) => orderId);
    await failpoints.hit(`order.${moment}_${name}_commit`, { orderIds });
  }
}
