import type { Order } from '../../gen/sluice/order/v1/order.ts';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { isLockWait, mysqlErrno } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { insertApart } from './insert-apart.ts';
import { insertWithEvents, UnwritableOrder } from './insert-rows.ts';
import { findLocked } from './locked-keys.ts';
import { type InsertOutcome, type NewOrder, orderOf } from './new-order.ts';
import { type OrderDatabase, StaleSlotMap } from './order-database.ts';
import type { OrderShards, SlotRoutes } from './order-shards.ts';
import { findTaken } from './taken-keys.ts';

export interface InsertOrdersOptions {
  readonly shards: OrderShards;
  /** Time from creation to expiry, in milliseconds. */
  readonly expiryMs: number;
  /** Batches under way at most, in each database. */
  readonly inFlightMax: number;
  readonly queueDepthMax: number;
  readonly log: Log;
  readonly metrics?: BatcherMetrics;
  /** Called with a database's number after a commit that left an outbox row. */
  readonly onCommit: (database: number) => void;
}

export interface InsertOrders {
  /** @throws Refusal OUTCOME_UNKNOWN: whether the order was inserted settles by a retry or the sweep */
  insert(entry: NewOrder, deadline: Deadline): Promise<InsertOutcome>;
  /** How long a new order of a slot will probably take to be inserted, in milliseconds. */
  expectedMs(slot: number): number;
  close(): Promise<void>;
}

/** Orders in one transaction at most. */
const entriesMax = 500;
/** A lock that stays would only be waited for again; what was refused once is inserted apart. */
const attemptsMax = 1;

const unknown = (cause: unknown): Refusal =>
  cause instanceof Refusal && cause.reason === 'OUTCOME_UNKNOWN'
    ? cause
    : new Refusal('OUTCOME_UNKNOWN', 'The order could not be stored in time', { cause });

/** Inserts orders in batches: one transaction for each database and batch. */
export function createInsertOrders(options: InsertOrdersOptions): InsertOrders {
  const { shards, inFlightMax, queueDepthMax, metrics } = options;
  // Adopted orders may wait for a lock that another process holds; new ones never share that wait.
  const laneOf = (slot: number, adopted: boolean): number =>
    shards.databaseOf(slot) * 2 + (adopted ? 1 : 0);
  const batcher = new Batcher<NewOrder, InsertOutcome>({
    name: 'order_to_mysql',
    entriesMax,
    inFlightMax,
    queueDepthMax,
    keyOf: ({ draft, adopted }) => laneOf(draft.slot, adopted),
    run: (entries, { deadline }) => insertBatch(options, entries, deadline),
    ...(metrics ? { metrics } : {}),
  });
  return {
    async insert(entry, deadline) {
      try {
        return await batcher.add(entry, deadline);
      } catch (error) {
        // Stock holds its units by now, so even an order that was never sent is unknown, not refused.
        throw unknown(error);
      }
    },
    expectedMs: (slot) => batcher.expectedMs(laneOf(slot, false)),
    close: () => batcher.close(),
  };
}

async function insertBatch(
  options: InsertOrdersOptions,
  entries: readonly NewOrder[],
  deadline: Deadline,
): Promise<(InsertOutcome | Error)[]> {
  const { shards, log } = options;
  const { routes } = shards;
  const index = routes.databaseOf((entries[0] as NewOrder).draft.slot);
  const outcomes = new Map<NewOrder, InsertOutcome | Error>();
  const batch = distinctById(entries, outcomes).filter((entry) => {
    const here = routes.databaseOf(entry.draft.slot) === index;
    if (!here) outcomes.set(entry, { kind: 'moved' });
    return here;
  });
  try {
    await insertDistinct(options, routes, shards.database(index), batch, outcomes, deadline);
  } catch (error) {
    if (error instanceof StaleSlotMap) await refreshMap(options, index, deadline);
    else log.warn({ err: error, orders: batch.length }, 'a batch of orders was not stored');
    const outcome = error instanceof StaleSlotMap ? { kind: 'moved' as const } : unknown(error);
    for (const entry of batch) if (!outcomes.has(entry)) outcomes.set(entry, outcome);
  }
  return entries.map((entry) => outcomes.get(entry) ?? unknown(undefined));
}

async function insertDistinct(
  options: InsertOrdersOptions,
  routes: SlotRoutes,
  database: OrderDatabase,
  batch: readonly NewOrder[],
  outcomes: Map<NewOrder, InsertOutcome | Error>,
  deadline: Deadline,
): Promise<void> {
  if (batch.length === 0) return;
  let rest = batch;
  let refusedBy = await insertTogether(options, routes, database, rest, outcomes, deadline);
  if (refusedBy === undefined) return;
  if (isLockWait(refusedBy)) {
    // Only those wait whose key somebody else is writing; a retry learns what became of it.
    const locked = await findLocked(routes, database, rest, deadline);
    for (const entry of locked) outcomes.set(entry, unknown(refusedBy));
    rest = rest.filter((entry) => !locked.has(entry));
    if (rest.length === 0) return;
    refusedBy = await insertTogether(options, routes, database, rest, outcomes, deadline);
    if (refusedBy === undefined) return;
  }
  const taken = await findTaken(routes, database, rest, deadline);
  for (const [entry, outcome] of taken) outcomes.set(entry, outcome);
  rest = rest.filter((entry) => !outcomes.has(entry));
  if (rest.length === 0) return;
  if (taken.size > 0) {
    refusedBy = await insertTogether(options, routes, database, rest, outcomes, deadline);
    if (refusedBy === undefined) return;
  }
  // Something else is wrong with one of them; the others must not suffer.
  const errno = mysqlErrno(refusedBy) ?? 0;
  const apart = await insertApart(options, routes, database, rest, errno, deadline);
  for (const [entry, outcome] of apart) outcomes.set(entry, outcome);
}

/** One transaction for all of them. @returns the complaint about one of them; then nothing was done */
async function insertTogether(
  options: InsertOrdersOptions,
  routes: SlotRoutes,
  database: OrderDatabase,
  batch: readonly NewOrder[],
  outcomes: Map<NewOrder, InsertOutcome | Error>,
  deadline: Deadline,
): Promise<unknown> {
  const { expiryMs, onCommit } = options;
  const info = failpoints.on ? { orderIds: batch.map(({ orderId }) => orderId) } : {};
  if (failpoints.on) await failpoints.hit('order.before_begin', info);
  let orders: ReadonlyMap<NewOrder, Order>;
  try {
    orders = await database.transaction(
      { deadline, mapVersion: routes.version, attempts: attemptsMax },
      async (connection, now) => {
        if (failpoints.on) await failpoints.hit('order.after_begin', info);
        const made = new Map(batch.map((entry) => [entry, orderOf(entry, now, expiryMs)]));
        await insertWithEvents(connection, { routes, orders: made });
        if (failpoints.on) await failpoints.hit('order.after_insert', info);
        if (failpoints.on) await failpoints.hit('order.before_commit', info);
        return made;
      },
    );
  } catch (error) {
    // Any complaint of the server is about a row of this batch: a taken key, a lock, a value.
    if (mysqlErrno(error) !== undefined || error instanceof UnwritableOrder) return error;
    throw error;
  }
  if (failpoints.on) await failpoints.hit('order.after_commit', info);
  onCommit(database.index);
  for (const [entry, order] of orders) outcomes.set(entry, { kind: 'created', order });
  return undefined;
}

/**
 * The entries ascending by id, each id once. Copies of one request never meet here, because a
 * process lets one of them through at a time; the same id twice is a collision of ids.
 */
function distinctById(
  entries: readonly NewOrder[],
  outcomes: Map<NewOrder, InsertOutcome | Error>,
): NewOrder[] {
  const sorted = [...entries].sort((a, b) =>
    a.orderId < b.orderId ? -1 : a.orderId > b.orderId ? 1 : 0,
  );
  return sorted.filter((entry, index) => {
    const first = index === 0 || sorted[index - 1]?.orderId !== entry.orderId;
    if (!first) outcomes.set(entry, { kind: 'idTaken' });
    return first;
  });
}

async function refreshMap(
  { shards, log }: InsertOrdersOptions,
  index: number,
  deadline: Deadline,
): Promise<void> {
  try {
    await shards.refresh(index, deadline);
  } catch (error) {
    log.warn({ err: error, database: index }, 'the slot map could not be read again');
  }
}
