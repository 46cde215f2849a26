import type { RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, type ServerKind, transaction } from '../runtime/mysql.ts';
import { holdState } from './hold-states.ts';
import {
  type KnownBusySkus,
  type SkuLocks,
  skuLocksSql,
  skusGot,
  withSkuLocks,
} from './ledger-locks.ts';
import { type SkuRow, skuOf } from './ledger-skus.ts';
import { openSnapshot, type Snapshot, type SnapshotReader } from './ledger-snapshot.ts';
import { ascending } from './ledger-sql.ts';

/** Users in one chunk; Lua takes some 8,000 values in a call. */
const chunkUsers = 2_000;

/** Some buyers of one SKU, as user, units, user, units, …; each SKU has one chunk that is its last. */
export interface BuyersChunk {
  readonly skuId: bigint;
  readonly fields: string[];
  readonly last: boolean;
}

/** What some gates are to be installed with: one moment of the ledger, under new epochs. */
export interface Installation {
  /** The SKUs' rows with the epochs raised; SKUs that do not exist are missing. */
  readonly skus: readonly SkuRow[];
  /** SKUs that are left out because another transaction keeps their rows locked. */
  readonly busy: ReadonlySet<bigint>;
  /** Every user who ever held one of these SKUs, with the units owned now; SKUs with few come first. */
  buyers(): AsyncGenerator<BuyersChunk>;
  close(): Promise<void>;
}

/**
 * Raises the epochs of some SKUs and reads their figures in one transaction under the rows' locks. The
 * buyers are read from a snapshot that is taken while the locks are held: no hold of these SKUs can be
 * between the two then, and the locks are held for milliseconds however many buyers there are.
 *
 * @throws Refusal OUTCOME_UNKNOWN or DEPENDENCY_DOWN, then nothing may be installed
 */
export async function openInstallation(
  pool: Pool,
  busySkus: KnownBusySkus,
  skuIds: readonly bigint[],
  deadline: Deadline,
): Promise<Installation> {
  const snapshot = await openSnapshot(pool, deadline);
  const sorted = ascending(skuIds);
  try {
    const { skus, busy } = await withSkuLocks(sorted, busySkus, async (locks) => {
      const result = await raiseEpochs(pool, snapshot, locks, deadline);
      return { result, busy: result.busy };
    });
    return {
      ...{ skus, busy },
      buyers: () => readAllBuyers(snapshot.connection, skus),
      close: () => snapshot.close(),
    };
  } catch (error) {
    await snapshot.close();
    throw error;
  }
}

/** Raises the epochs of the SKUs that can be locked, and has the snapshot taken under their locks. */
async function raiseEpochs(
  pool: Pool,
  snapshot: Snapshot,
  locks: SkuLocks,
  deadline: Deadline,
): Promise<Pick<Installation, 'skus' | 'busy'>> {
  const opening = (kind: ServerKind): string[] => skuLocksSql(kind, locks);
  return await transaction(pool, { deadline, opening }, async (connection, opened) => {
    const { skus, busy } = skusGot(locks, opened);
    const lockedIds = ascending(skus.keys());
    await snapshot.take();
    if (lockedIds.length === 0) return { skus: [], busy };
    await connection.query(
      'UPDATE skus FORCE INDEX (PRIMARY) SET epoch = epoch + 1 WHERE sku_id IN (?)',
      [lockedIds],
    );
    const [rows] = await connection.query<RowDataPacket[]>(
      'SELECT * FROM skus WHERE sku_id IN (?) ORDER BY sku_id',
      [lockedIds],
    );
    return { skus: rows.map(skuOf), busy };
  });
}
/** A SKU with millions of buyers takes seconds; the others do not wait for it. */
async function* readAllBuyers(
  connection: SnapshotReader,
  skus: readonly SkuRow[],
): AsyncGenerator<BuyersChunk> {
  const owned = ({ held, sold }: SkuRow): number => Number(held + sold);
  const few = skus.filter((sku) => owned(sku) < chunkUsers);
  yield* readBuyers(
    connection,
    few.map(({ skuId }) => skuId),
  );
  const many = skus.filter((sku) => owned(sku) >= chunkUsers);
  for (const { skuId } of many.toSorted((a, b) => owned(a) - owned(b))) {
    yield* readBuyers(connection, [skuId]);
  }
}

/** The buyers of SKUs in ascending order: as many SKUs in one statement as fill a chunk. */
async function* readBuyers(
  connection: SnapshotReader,
  skuIds: readonly bigint[],
): AsyncGenerator<BuyersChunk> {
  let left = skuIds;
  /** In the middle of the first one left: the user behind whom to go on. */
  let after: string | undefined;
  while (left.length > 0) {
    const asked = after === undefined ? left : left.slice(0, 1);
    const rows = await readChunk(connection, asked, after ?? '-1');
    const full = rows.length === chunkUsers;
    const bySku = Map.groupBy(rows, (row) => BigInt(row.sku_id));
    const unfinished = full ? BigInt(rows.at(-1)?.sku_id) : undefined;
    const done = unfinished === undefined ? asked.length : asked.indexOf(unfinished);
    for (const skuId of asked.slice(0, done)) {
      yield { skuId, fields: fieldsOf(bySku.get(skuId) ?? []), last: true };
    }
    if (unfinished !== undefined) {
      yield { skuId: unfinished, fields: fieldsOf(bySku.get(unfinished) ?? []), last: false };
    }
    after = unfinished === undefined ? undefined : String(rows.at(-1)?.user_id);
    left = left.slice(done);
  }
}

async function readChunk(
  connection: SnapshotReader,
  skuIds: readonly bigint[],
  after: string,
): Promise<RowDataPacket[]> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT sku_id, user_id,
       SUM(IF(state IN (${holdState.HELD}, ${holdState.SOLD}), units, 0)) AS units
     FROM stock_holds FORCE INDEX (holds_by_buyer) WHERE sku_id IN (?) AND user_id > ?
     GROUP BY sku_id, user_id ORDER BY sku_id, user_id LIMIT ${chunkUsers}`,
    [skuIds, after],
  );
  return rows;
}

function fieldsOf(rows: readonly RowDataPacket[]): string[] {
  return rows.flatMap((row) => [String(row.user_id), String(row.units)]);
}
