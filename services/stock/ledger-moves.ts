import type { PoolConnection, ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import {
  isStatementTimeout,
  type Pool,
  type ServerKind,
  serverKindOf,
  transaction,
} from '../runtime/mysql.ts';
import { readHoldsFor, type SeenHolds } from './ledger-hold-locks.ts';
import {
  type KnownBusySkus,
  locksFor,
  locksWithoutWait,
  type SkuLocks,
  type SkusGot,
  skuLocksSql,
  skusGot,
} from './ledger-locks.ts';
import {
  addToFiguresSql,
  ascending,
  chunksOf,
  type HoldRow,
  insertHoldsSql,
  type LockedSku,
  runTogether,
} from './ledger-sql.ts';
import { type MovedHold, type MovePlan, type OrderMove, planMoves } from './plan-moves.ts';

export type { MovedHold, OrderMove } from './plan-moves.ts';

/** What the moves did, and all rows that the orders have. */
export interface MoveOutcome {
  readonly moved: readonly MovedHold[];
  readonly rows: readonly HoldRow[];
  /** Orders that nothing was moved of, because another transaction keeps a row of theirs locked. */
  readonly busy: ReadonlySet<bigint>;
}

/** Somebody inserted a hold of another SKU meanwhile; its row must be locked first. */
class UnlockedSku extends Error {}

const attemptsMax = 4;

/**
 * Moves the holds of some orders, each by compare-and-set on its state, with the figures of their
 * SKUs, in one transaction. Repeating it moves nothing. It waits a moment for rows that others have
 * locked; orders whose rows are not free then are left as they are and named as busy.
 *
 * @throws Refusal as `transaction`
 */
export async function moveHolds(
  pool: Pool,
  busySkus: KnownBusySkus,
  orders: readonly OrderMove[],
  deadline: Deadline,
): Promise<MoveOutcome> {
  const fences = orders.some(({ fenceSkuIds }) => fenceSkuIds.length > 0);
  const move = fences ? moveOrFence : moveOnly;
  for (let attempt = 1, waits = true; ; attempt += 1) {
    try {
      return await move({ pool, busySkus, orders, waits, deadline });
    } catch (error) {
      if (isStatementTimeout(error) && waits) waits = false;
      else if (!(error instanceof UnlockedSku) || attempt >= attemptsMax) throw error;
    }
  }
}

interface Moving {
  readonly pool: Pool;
  readonly busySkus: KnownBusySkus;
  readonly orders: readonly OrderMove[];
  /** Whether it waits a moment for locked rows, or passes them over. */
  readonly waits: boolean;
  readonly deadline: Deadline;
}

/**
 * Adds no row, so the holds' own locks keep them as they were read, and the SKUs' rows, for which
 * the buyers wait, are locked last and for the figures alone.
 */
async function moveOnly(moving: Moving): Promise<MoveOutcome> {
  const { pool, busySkus, orders, waits, deadline } = moving;
  const orderIds = ascending(orders.map(({ orderId }) => orderId));
  const reading = readHoldsFor(orderIds, waits && { ms: busySkus.lockWaitMs() });
  return await transaction(
    pool,
    { deadline, opening: reading.statements },
    async (connection, opened) => {
      const seen = reading.seen(opened);
      const planned = planMoves(without(orders, seen.busy), seen.holds, new Map());
      if (planned.moved.length === 0) return outcomeOf(planned, seen, new Map());
      const kind = serverKindOf(connection);
      const skuIds = ascending(planned.figures.keys());
      const locks = locksFor(skuIds, busySkus);
      if (waits && locks.take.length === 0) {
        const { skus } = await writeMoves(connection, kind, planned, locks);
        return outcomeOf(planned, seen, skus);
      }
      // Which SKUs are free decides which orders are moved, so it is asked first.
      const { skus, busy: locked } = await lockNow(connection, kind, skuIds);
      busySkus.note(skuIds, locked);
      const kept = ordersOf(seen.holds, locked, new Set(seen.busy));
      const plan = planMoves(without(orders, kept), seen.holds, skus);
      await writeMoves(connection, kind, plan, undefined);
      return outcomeOf(plan, { ...seen, busy: kept }, skus);
    },
  );
}

/** A row that is missing has no lock: its SKU's keeps others from inserting it, so that comes first. */
async function moveOrFence(moving: Moving): Promise<MoveOutcome> {
  const { pool, busySkus, orders, waits, deadline } = moving;
  const orderIds = ascending(orders.map(({ orderId }) => orderId));
  return await transaction(pool, { deadline }, async (connection) => {
    const kind = serverKindOf(connection);
    const known = await readHoldsFor(orderIds, 'unlocked').read(connection, kind);
    const fenceIds = orders.flatMap(({ fenceSkuIds }) => fenceSkuIds);
    const skuIds = ascending([...fenceIds, ...skuIdsOf(known.holds)]);
    const locks = waits ? locksFor(skuIds, busySkus) : locksWithoutWait(skuIds);
    const { skus, busy } = await lock(connection, kind, locks);
    busySkus.note(skuIds, busy);
    const patience = waits && { ms: busySkus.lockWaitMs() };
    const seen = await readHoldsFor(orderIds, patience).read(connection, kind);
    const kept = ordersOf(seen.holds, busy, new Set(seen.busy));
    for (const { orderId, fenceSkuIds } of orders) {
      if (fenceSkuIds.some((skuId) => busy.has(skuId))) kept.add(orderId);
    }
    if (skuIdsOf(seen.holds).some((id) => !skus.has(id) && !busy.has(id))) throw new UnlockedSku();
    const plan = planMoves(without(orders, kept), seen.holds, skus);
    await writeMoves(connection, kind, plan, undefined);
    return outcomeOf(plan, { ...seen, busy: kept }, skus);
  });
}

function without(orders: readonly OrderMove[], busy: ReadonlySet<bigint>): readonly OrderMove[] {
  return busy.size === 0 ? orders : orders.filter(({ orderId }) => !busy.has(orderId));
}

/** Adds the orders with a hold of one of these SKUs. */
function ordersOf(
  holds: ReadonlyMap<bigint, readonly HoldRow[]>,
  skuIds: ReadonlySet<bigint>,
  orderIds: Set<bigint>,
): Set<bigint> {
  for (const [orderId, rows] of holds) {
    if (rows.some(({ skuId }) => skuIds.has(skuId))) orderIds.add(orderId);
  }
  return orderIds;
}

function skuIdsOf(holds: ReadonlyMap<bigint, readonly HoldRow[]>): bigint[] {
  return [...holds.values()].flatMap((rows) => rows.map(({ skuId }) => skuId));
}

function lockNow(
  connection: PoolConnection,
  kind: ServerKind,
  skuIds: readonly bigint[],
): Promise<SkusGot> {
  return lock(connection, kind, locksWithoutWait(skuIds));
}

async function lock(
  connection: PoolConnection,
  kind: ServerKind,
  locks: SkuLocks,
): Promise<SkusGot> {
  const results = await runTogether(connection, skuLocksSql(kind, locks));
  return skusGot(locks, results as RowDataPacket[][]);
}

/** Writes a plan in one round trip; with `locks`, the SKUs' rows are locked in between, as late as possible. */
async function writeMoves(
  connection: PoolConnection,
  kind: ServerKind,
  plan: MovePlan,
  locks: SkuLocks | undefined,
): Promise<SkusGot> {
  const updates = updatesOf(plan);
  const lockStatements = locks ? skuLocksSql(kind, locks) : [];
  const results = await runTogether(connection, [
    ...updates.map(({ sql }) => sql),
    ...lockStatements,
    ...insertHoldsSql(plan.fences),
    ...addToFiguresSql(plan.figures),
  ]);
  requireAll(updates, results);
  if (locks === undefined) return { skus: new Map(), busy: new Set() };
  const locked = results.slice(updates.length, updates.length + lockStatements.length);
  return skusGot(locks, locked as RowDataPacket[][]);
}

/** What is to be credited, under the epochs that the SKUs have while this transaction locks them. */
function outcomeOf(
  { moved }: MovePlan,
  { holds, busy }: SeenHolds,
  skus: ReadonlyMap<bigint, LockedSku>,
): MoveOutcome {
  return {
    moved: moved.map((hold) => ({ ...hold, epoch: (skus.get(hold.skuId) as LockedSku).epoch })),
    rows: [...holds.values()].flat().filter(({ orderId }) => !busy.has(orderId)),
    busy,
  };
}

/** A statement that moves rows from one state to another, and how many there are. */
interface StateUpdate {
  readonly sql: string;
  readonly rows: number;
}

/** Rows that go from one state to another go together. */
function updatesOf({ states }: MovePlan): StateUpdate[] {
  const groups = Map.groupBy(states, ({ from, to }) => `${from}>${to}`);
  return [...groups.values()].flatMap((group) => {
    const { from, to } = group[0] as (typeof group)[number];
    return chunksOf(group).map((rows) => ({
      // Without the forced index the optimizer takes the secondary one: 30 times slower (measured).
      // Without the ids by themselves a single pair of them is looked for in all rows of the table.
      sql: `UPDATE stock_holds FORCE INDEX (PRIMARY)
         SET state = ${to}, update_time = CURRENT_TIMESTAMP(3)
         WHERE state = ${from} AND order_id IN (${rows.map(({ orderId }) => orderId).join(',')})
           AND (order_id, sku_id) IN (${rows.map((row) => `(${row.orderId},${row.skuId})`).join(',')})`,
      rows: rows.length,
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
