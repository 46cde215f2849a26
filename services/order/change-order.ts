import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { isLockWait, mysqlErrno } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { LockPatience } from './change-rows.ts';
import {
  beingChanged,
  type Change,
  type ChangedOrder,
  type ChangeTransactionOptions,
  changeTogether,
  type OrderChange,
  type Outcome,
} from './change-transaction.ts';
import { StaleSlotMap } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';
import type { SlotRoutes } from './order-shards.ts';

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

export interface ChangeOrderOptions extends ChangeTransactionOptions {
  readonly queueDepthMax: number;
  readonly log: Log;
  readonly metrics?: BatcherMetrics;
}

/** Changes in one transaction at most: locks stay short. */
const changesMax = 200;
const inFlightMax = 2;
/** A map that has another version this often in a row is moving all the time. */
const routesMax = 4;
/** A deadlock or lock wait runs one change again; a batch passes over what is locked instead. */
const attemptsAloneMax = 2;
/** How long a batch waits for an order that another transaction has locked, in milliseconds. */
const lockWaitMs = 100;

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
  const { routes } = options.shards;
  const databaseOf = ({ orderId }: Change): number => routes.databaseOf(slotOfOrder(orderId));
  const index = databaseOf(changes[0] as Change);
  // The others' slots have moved while they waited.
  const here = changes.filter((change) => databaseOf(change) === index);
  const outcomes = new Map<Change, Outcome>();
  const together = (attempts: number, patience: LockPatience): Promise<void> =>
    changeTogether(options, routes, index, here, outcomes, deadline, { attempts, patience });
  try {
    if (here.length === 1) await together(attemptsAloneMax, 'server');
    else await together(1, { ms: lockWaitMs }).catch((error) => passOver(error, together));
  } catch (error) {
    const apart = mysqlErrno(error) !== undefined && here.length > 1;
    if (apart) await changeApart(options, routes, index, here, outcomes, deadline);
    else await failAll(options, index, here, outcomes, error, deadline);
  }
  return changes.map((change) => outcomes.get(change) ?? 'moved');
}

/** An order that somebody keeps locked is refused by itself; all others are changed. */
async function passOver(
  error: unknown,
  together: (attempts: number, patience: LockPatience) => Promise<void>,
): Promise<void> {
  if (!isLockWait(error)) throw error;
  await together(1, 'none');
}

/** One of them is not accepted; the others must not suffer. */
async function changeApart(
  options: ChangeOrderOptions,
  routes: SlotRoutes,
  index: number,
  changes: readonly Change[],
  outcomes: Map<Change, Outcome>,
  deadline: Deadline,
): Promise<void> {
  for (const change of changes) {
    try {
      const how = { attempts: 1, patience: 'none' } as const;
      await changeTogether(options, routes, index, [change], outcomes, deadline, how);
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
    return beingChanged(error);
  }
  return new Refusal('OUTCOME_UNKNOWN', undefined, { cause: error });
}
