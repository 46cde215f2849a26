import type { PoolConnection, RowDataPacket } from 'mysql2/promise';
import { lockWaitLimit, type ServerKind } from '../runtime/mysql.ts';
import { chunksOf, type HoldRow, holdsByOrder, readHoldsSql, runTogether } from './ledger-sql.ts';

/** How long the rows of holds that others have locked are waited for, in milliseconds. */
const lockWaitMs = 40;

/** The holds of some orders as a transaction has locked them. */
export interface SeenHolds {
  readonly holds: Map<bigint, HoldRow[]>;
  /** Orders with a row that another transaction has locked; what is seen of them is not all. */
  readonly busy: ReadonlySet<bigint>;
}

/** The statements that read holds, and how to read their results. */
export interface HoldsReading {
  statements(kind: ServerKind): string[];
  seen(results: readonly RowDataPacket[][]): SeenHolds;
  /** Runs the statements in one round trip. */
  read(connection: PoolConnection, kind: ServerKind): Promise<SeenHolds>;
}

/**
 * Reads all holds of some orders and locks them in their key's order: waiting a moment for those that
 * are locked (a statement time-out says that it was not long enough), or passing them over; or it
 * locks none.
 */
export function readHoldsFor(
  orderIds: readonly bigint[],
  waits: boolean | 'unlocked',
): HoldsReading {
  const reading = waits === false ? passingOver(orderIds) : inTurn(orderIds, waits);
  return {
    ...reading,
    async read(connection, kind) {
      const results = await runTogether(connection, reading.statements(kind));
      return reading.seen(results as RowDataPacket[][]);
    },
  };
}

function inTurn(
  orderIds: readonly bigint[],
  waits: true | 'unlocked',
): Pick<HoldsReading, 'statements' | 'seen'> {
  const lock = waits === true;
  const statements = readHoldsSql(orderIds, { lock });
  return {
    statements: (kind) =>
      lock ? statements.map((sql) => lockWaitLimit(kind, lockWaitMs, sql)) : statements,
    seen: (results) => ({ holds: holdsByOrder(results), busy: new Set() }),
  };
}

/** The keys without locks tell which rows were passed over. */
function passingOver(orderIds: readonly bigint[]): Pick<HoldsReading, 'statements' | 'seen'> {
  const keys = chunksOf(orderIds).map(
    (ids) =>
      `SELECT order_id, sku_id FROM stock_holds FORCE INDEX (PRIMARY) WHERE order_id IN (${ids})`,
  );
  const locking = readHoldsSql(orderIds, { lock: true }).map((sql) => `${sql} SKIP LOCKED`);
  return {
    statements: () => [...keys, ...locking],
    seen(results) {
      const holds = holdsByOrder(results.slice(keys.length));
      const busy = new Set<bigint>();
      for (const row of results.slice(0, keys.length).flat()) {
        const [orderId, skuId] = [BigInt(row.order_id), BigInt(row.sku_id)];
        if (!holds.get(orderId)?.some((hold) => hold.skuId === skuId)) busy.add(orderId);
      }
      return { holds, busy };
    },
  };
}
