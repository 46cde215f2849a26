import type { PoolConnection, RowDataPacket } from 'mysql2/promise';
import { lockWaitLimit, type ServerKind } from '../runtime/mysql.ts';
import { chunksOf, type HoldRow, holdsByOrder, readHoldsSql, runTogether } from './ledger-sql.ts';

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

/** How long locked rows are waited for; false passes them over, and `unlocked` locks none. */
export type LockPatience = { readonly ms: number } | false | 'unlocked';

/**
 * Reads all holds of some orders and locks them in their key's order. A statement time-out says that
 * locked ones did not become free in time.
 */
export function readHoldsFor(orderIds: readonly bigint[], patience: LockPatience): HoldsReading {
  const reading = patience === false ? passingOver(orderIds) : inTurn(orderIds, patience);
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
  patience: Exclude<LockPatience, false>,
): Pick<HoldsReading, 'statements' | 'seen'> {
  const statements = readHoldsSql(orderIds, { lock: patience !== 'unlocked' });
  return {
    statements: (kind) =>
      patience === 'unlocked'
        ? statements
        : statements.map((sql) => lockWaitLimit(kind, patience.ms, sql)),
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
