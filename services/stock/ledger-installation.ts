import type { PoolConnection, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, transaction } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { holdState } from './hold-states.ts';
import { type SkuRow, skuOf } from './ledger-skus.ts';
import { openSnapshot } from './ledger-snapshot.ts';

/** Users in one chunk; Lua takes some 8,000 values in a call. */
const chunkUsers = 2_000;

/** What a gate is to be installed with: one moment of the ledger, under a new epoch. */
export interface Installation {
  /** The SKU's row with the epoch raised. */
  readonly sku: SkuRow;
  /** Every user who ever held the SKU, with the units owned now, as user, units, user, units, … */
  buyers(): AsyncGenerator<string[]>;
  close(): Promise<void>;
}

/**
 * Raises a SKU's epoch and reads its figures in one transaction under the row's lock. The buyers are
 * read from a snapshot that is taken while the lock is held: no hold of the SKU can be between the
 * two then, and the lock is held for milliseconds however many buyers there are.
 *
 * @throws Refusal NOT_FOUND; OUTCOME_UNKNOWN or DEPENDENCY_DOWN, then nothing may be installed
 */
export async function openInstallation(
  pool: Pool,
  skuId: bigint,
  deadline: Deadline,
): Promise<Installation> {
  const snapshot = await openSnapshot(pool, deadline);
  try {
    const sku = await transaction(pool, { deadline }, async (connection) => {
      const before = await readSku(connection, skuId);
      await snapshot.take();
      await connection.query('UPDATE skus SET epoch = epoch + 1 WHERE sku_id = ?', [skuId]);
      return { ...before, epoch: before.epoch + 1n };
    });
    return {
      sku,
      buyers: () => readBuyers(snapshot.connection, skuId),
      close: () => snapshot.close(),
    };
  } catch (error) {
    await snapshot.close();
    throw error;
  }
}

async function readSku(connection: PoolConnection, skuId: bigint): Promise<SkuRow> {
  const [rows] = await connection.query<RowDataPacket[]>(
    'SELECT * FROM skus WHERE sku_id = ? FOR UPDATE',
    [skuId],
  );
  if (rows[0] === undefined) throw new Refusal('NOT_FOUND', `There is no SKU ${skuId}`, { skuId });
  return skuOf(rows[0]);
}

async function* readBuyers(connection: PoolConnection, skuId: bigint): AsyncGenerator<string[]> {
  let after = '-1';
  for (;;) {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT user_id, SUM(IF(state IN (${holdState.HELD}, ${holdState.SOLD}), units, 0)) AS units
       FROM stock_holds FORCE INDEX (holds_by_buyer) WHERE sku_id = ? AND user_id > ?
       GROUP BY user_id ORDER BY user_id LIMIT ${chunkUsers}`,
      [skuId, after],
    );
    if (rows.length > 0) yield rows.flatMap((row) => [String(row.user_id), String(row.units)]);
    if (rows.length < chunkUsers) return;
    after = String(rows.at(-1)?.user_id);
  }
}
