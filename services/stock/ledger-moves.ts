import type { PoolConnection, ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, transaction } from '../runtime/mysql.ts';
import {
  type FigureChange,
  figureChange,
  type HoldMove,
  type HoldState,
  stateAfter,
} from './hold-states.ts';
import { fenceOf } from './ledger-fence.ts';
import {
  addToFiguresSql,
  ascending,
  chunksOf,
  type HoldRow,
  holdsByOrder,
  insertHoldsSql,
  type LockedSku,
  lockedSkus,
  lockSkus,
  lockSkusSql,
  type NewHold,
  readHolds,
  readHoldsSql,
  runTogether,
} from './ledger-sql.ts';

/** An order whose holds are to be moved. */
export interface OrderMove {
  readonly orderId: bigint;
  readonly move: HoldMove;
  /** SKUs to fence where the order has no row; only with RELEASE. */
  readonly fenceSkuIds: readonly bigint[];
  /** The buyer and the request, for the fences; 0 and empty if unknown. */
  readonly userId: bigint;
  readonly requestId: string;
}

/** One hold that was moved, or fenced because there was none. */
export interface MovedHold {
  readonly orderId: bigint;
  readonly skuId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
  readonly units: number;
  /** Whether its units became available again. */
  readonly credit: boolean;
  /** Whether it is a fence and nothing was moved. */
  readonly fenced: boolean;
  /** The SKU's epoch in the transaction that moved it. */
  readonly epoch: bigint;
}

/** What the moves did, and all rows that the orders have. */
export interface MoveOutcome {
  readonly moved: readonly MovedHold[];
  readonly rows: readonly HoldRow[];
}

/** Somebody inserted a hold of another SKU meanwhile; its row must be locked first. */
class UnlockedSku extends Error {}

const attemptsMax = 4;

/**
 * Moves the holds of some orders, each by compare-and-set on its state, with the figures of their
 * SKUs, in one transaction. Repeating it moves nothing.
 *
 * @throws Refusal as `transaction`
 */
export async function moveHolds(
  pool: Pool,
  orders: readonly OrderMove[],
  deadline: Deadline,
): Promise<MoveOutcome> {
  const orderIds = ascending(orders.map(({ orderId }) => orderId));
  if (orders.every(({ fenceSkuIds }) => fenceSkuIds.length === 0)) {
    const opening = readHoldsSql(orderIds, { lock: true });
    return await transaction(pool, { deadline, opening }, (connection, opened) =>
      moveOnly(connection, orders, holdsByOrder(opened)),
    );
  }
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await transaction(pool, { deadline }, (connection) =>
        moveOrFence(connection, orders, orderIds),
      );
    } catch (error) {
      if (!(error instanceof UnlockedSku) || attempt >= attemptsMax) throw error;
    }
  }
}

/**
 * Adds no row, so the holds' own locks keep them as they were read, and the SKUs' rows, for which
 * the buyers wait, are locked last and for the figures alone.
 */
async function moveOnly(
  connection: PoolConnection,
  orders: readonly OrderMove[],
  holds: ReadonlyMap<bigint, readonly HoldRow[]>,
): Promise<MoveOutcome> {
  const plan = planMoves(orders, holds, new Map());
  if (plan.moved.length === 0) return outcomeOf(plan, holds, new Map());
  const updates = updatesOf(plan);
  const skuIds = ascending(plan.figures.keys());
  const results = await runTogether(connection, [
    ...updates.map(({ sql }) => sql),
    lockSkusSql(skuIds),
    ...addToFiguresSql(plan.figures),
  ]);
  requireAll(updates, results);
  return outcomeOf(plan, holds, lockedSkus(results[updates.length] as RowDataPacket[]));
}

/** A row that is missing has no lock: its SKU's keeps others from inserting it, so that comes first. */
async function moveOrFence(
  connection: PoolConnection,
  orders: readonly OrderMove[],
  orderIds: readonly bigint[],
): Promise<MoveOutcome> {
  const seen = await readHolds(connection, orderIds);
  const skuIds = new Set(orders.flatMap(({ fenceSkuIds }) => fenceSkuIds));
  for (const hold of [...seen.values()].flat()) skuIds.add(hold.skuId);
  const skus = await lockSkus(connection, skuIds);
  const holds = await readHolds(connection, orderIds, { lock: true });
  if ([...holds.values()].flat().some(({ skuId }) => !skus.has(skuId))) throw new UnlockedSku();

  const plan = planMoves(orders, holds, skus);
  const updates = updatesOf(plan);
  const results = await runTogether(connection, [
    ...updates.map(({ sql }) => sql),
    ...insertHoldsSql(plan.fences),
    ...addToFiguresSql(plan.figures),
  ]);
  requireAll(updates, results);
  return outcomeOf(plan, holds, skus);
}

interface MovePlan {
  readonly moved: Omit<MovedHold, 'epoch'>[];
  /** Per row, as SQL names it: the state it has and the one it gets. */
  readonly states: Map<string, { from: HoldState; to: HoldState }>;
  readonly fences: NewHold[];
  readonly figures: Map<bigint, { available: bigint; held: bigint; sold: bigint }>;
}

function planMoves(
  orders: readonly OrderMove[],
  holds: ReadonlyMap<bigint, readonly HoldRow[]>,
  skus: ReadonlyMap<bigint, LockedSku>,
): MovePlan {
  const plan: MovePlan = { moved: [], states: new Map(), fences: [], figures: new Map() };
  const fenced = new Set<string>();
  for (const order of orders) {
    const rows = holds.get(order.orderId) ?? [];
    for (const row of rows) {
      const key = `(${row.orderId},${row.skuId})`;
      // Two events of one order may share a batch: the second sees what the first did.
      const from = plan.states.get(key)?.to ?? row.state;
      const to = stateAfter(from, order.move);
      if (to === undefined) continue;
      plan.states.set(key, { from: row.state, to });
      addMove(plan, row, from, to);
    }
    for (const skuId of order.fenceSkuIds) {
      const sku = skus.get(skuId);
      const key = `(${order.orderId},${skuId})`;
      if (!sku || fenced.has(key) || rows.some((row) => row.skuId === skuId)) continue;
      const fence = fenceOf({ ...order, skuId, units: 0 }, sku.currency);
      fenced.add(key);
      plan.fences.push(fence);
      plan.moved.push({ ...fence, credit: false, fenced: true });
    }
  }
  return plan;
}

function addMove(plan: MovePlan, row: HoldRow, from: HoldState, to: HoldState): void {
  const { orderId, skuId, userId, requestId, units } = row;
  const change = figureChange(from, to, units);
  plan.figures.set(skuId, add(plan.figures.get(skuId), change));
  const credit = change.available > 0n;
  plan.moved.push({ orderId, skuId, userId, requestId, units, credit, fenced: false });
}

/** What is to be credited, under the epochs that the SKUs have while this transaction locks them. */
function outcomeOf(
  { moved }: MovePlan,
  holds: ReadonlyMap<bigint, readonly HoldRow[]>,
  skus: ReadonlyMap<bigint, LockedSku>,
): MoveOutcome {
  return {
    moved: moved.map((hold) => ({ ...hold, epoch: (skus.get(hold.skuId) as LockedSku).epoch })),
    rows: [...holds.values()].flat(),
  };
}

/** A statement that moves rows from one state to another, and how many there are. */
interface StateUpdate {
  readonly sql: string;
  readonly rows: number;
}

/** Rows that go from one state to another go together. */
function updatesOf({ states }: MovePlan): StateUpdate[] {
  const groups = Map.groupBy(states, ([, { from, to }]) => `${from}>${to}`);
  return [...groups.values()].flatMap((group) => {
    const { from, to } = (group[0] as (typeof group)[number])[1];
    return chunksOf(group.map(([key]) => key)).map((keys) => ({
      // Without the forced index the optimizer takes the secondary one: 30 times slower (measured).
      sql: `UPDATE stock_holds FORCE INDEX (PRIMARY)
         SET state = ${to}, update_time = CURRENT_TIMESTAMP(3)
         WHERE state = ${from} AND (order_id, sku_id) IN (${keys.join(',')})`,
      rows: keys.length,
    }));
  });
}

/** @throws Error if rows were not in the state that they were read in; their locks should have kept them so */
function requireAll(
  updates: readonly StateUpdate[],
  results: readonly (RowDataPacket[] | ResultSetHeader)[],
): void {
  for (const [index, { rows }] of updates.entries()) {
    const { affectedRows } = results[index] as ResultSetHeader;
    if (affectedRows !== rows) throw new Error(`${affectedRows} of ${rows} holds moved`);
  }
}

function add(to: FigureChange | undefined, change: FigureChange): FigureChange {
  if (to === undefined) return change;
  return {
    available: to.available + change.available,
    held: to.held + change.held,
    sold: to.sold + change.sold,
  };
}
