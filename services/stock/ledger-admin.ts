import { createHash } from 'node:crypto';
import type { PoolConnection, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { duplicateKeyErrno, mysqlErrno, type Pool, transaction } from '../runtime/mysql.ts';
import { invalidRequest, Refusal } from '../runtime/refusals.ts';
import { type SkuRow, skuOf } from './ledger-skus.ts';

/** What an operator decides about a new SKU; validated. */
export interface NewSku {
  readonly skuId: bigint;
  readonly title: string;
  readonly currency: string;
  readonly unitPriceMinor: bigint;
  readonly supplied: bigint;
  readonly openTime: Date | undefined;
  readonly closeTime: Date | undefined;
  readonly limitPerUser: number;
  readonly paused: boolean;
}

/** Settings to change; an absent one stays, null removes a time. */
export interface SkuChanges {
  readonly title?: string;
  readonly currency?: string;
  readonly unitPriceMinor?: bigint;
  readonly openTime?: Date | null;
  readonly closeTime?: Date | null;
  readonly limitPerUser?: number;
  readonly paused?: boolean;
}

/**
 * Creates a SKU; the same request again answers the SKU as it is now.
 *
 * @throws Refusal INVALID_REQUEST if the id exists with other content
 */
export async function createSku(pool: Pool, sku: NewSku, deadline: Deadline): Promise<SkuRow> {
  const digest = digestOf(sku);
  try {
    return await transaction(pool, { deadline }, async (connection) => {
      await connection.query(
        `INSERT INTO skus (sku_id, title, currency, unit_price_minor, open_time, close_time,
           limit_per_user, paused, settings_version, supplied, available, held, sold, epoch,
           creation_digest, create_time, update_time)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, 0, 0, 0, ?, NOW(3), NOW(3))`,
        [
          ...[sku.skuId, sku.title, sku.currency, sku.unitPriceMinor],
          ...[sku.openTime ?? null, sku.closeTime ?? null, sku.limitPerUser, sku.paused ? 1 : 0],
          ...[sku.supplied, sku.supplied, digest],
        ],
      );
      return await lockSku(connection, sku.skuId);
    });
  } catch (error) {
    if (mysqlErrno(error) !== duplicateKeyErrno) throw error;
  }
  const existing = await transaction(pool, { deadline }, (connection) =>
    lockSku(connection, sku.skuId),
  );
  if (existing.creationDigest.equals(digest)) return existing;
  const description = 'exists with other content; use UpdateSku and AdjustStock to change it';
  throw invalidRequest([{ field: 'sku_id', description }]);
}

/**
 * Changes settings and raises their version, if anything changes.
 *
 * @throws Refusal NOT_FOUND; INVALID_REQUEST if the window or the currency would be wrong
 */
export async function updateSku(
  pool: Pool,
  skuId: bigint,
  changes: SkuChanges,
  deadline: Deadline,
): Promise<SkuRow> {
  return await transaction(pool, { deadline }, async (connection) => {
    const before = await lockSku(connection, skuId);
    const after = { ...before, ...definedOf(changes) };
    checkWindow(after);
    if (sameSettings(before, after)) return before;
    await connection.query(
      `UPDATE skus SET title = ?, currency = ?, unit_price_minor = ?, open_time = ?, close_time = ?,
         limit_per_user = ?, paused = ?, settings_version = settings_version + 1, update_time = NOW(3)
       WHERE sku_id = ?`,
      [
        ...[after.title, after.currency, after.unitPriceMinor],
        ...[after.openTime ?? null, after.closeTime ?? null, after.limitPerUser],
        ...[after.paused ? 1 : 0, skuId],
      ],
    );
    return await lockSku(connection, skuId);
  });
}

/** What an adjustment did, or had done when its request id came first. */
export interface Adjustment {
  readonly sku: SkuRow;
  readonly replayed: boolean;
}

/**
 * Adds units, or with a negative delta recalls available ones, once per request id.
 *
 * @throws Refusal NOT_FOUND; SOLD_OUT if fewer are available than are recalled;
 *   IDEMPOTENCY_KEY_REUSED if the request id stands for another adjustment
 */
export async function adjustStock(
  pool: Pool,
  { skuId, delta, requestId }: { skuId: bigint; delta: bigint; requestId: string },
  deadline: Deadline,
): Promise<Adjustment> {
  const work = async (connection: PoolConnection): Promise<Adjustment> => {
    // Its lock makes copies of one request wait for each other.
    const sku = await lockSku(connection, skuId);
    const key = Buffer.from(requestId, 'latin1');
    const [earlier] = await connection.query<RowDataPacket[]>(
      'SELECT sku_id, delta FROM stock_adjustments WHERE request_id = ? FOR UPDATE',
      [key],
    );
    const found = earlier[0];
    if (found) {
      if (BigInt(found.sku_id) === skuId && BigInt(found.delta) === delta) {
        return { sku, replayed: true };
      }
      throw new Refusal('IDEMPOTENCY_KEY_REUSED');
    }
    if (sku.available + delta < 0n) {
      const description = `only ${sku.available} units are available; held and sold ones cannot be recalled`;
      const violations = [{ field: 'delta', description }];
      throw new Refusal('SOLD_OUT', `delta: ${description}`, { skuId, violations });
    }
    await connection.query(
      'INSERT INTO stock_adjustments (request_id, sku_id, delta) VALUES (?, ?, ?)',
      [key, skuId, delta],
    );
    await connection.query(
      'UPDATE skus SET supplied = supplied + ?, available = available + ? WHERE sku_id = ?',
      [delta, delta, skuId],
    );
    return { sku: await lockSku(connection, skuId), replayed: false };
  };
  try {
    return await transaction(pool, { deadline }, work);
  } catch (error) {
    // Only an adjustment of another SKU can have come in between.
    if (mysqlErrno(error) === duplicateKeyErrno) throw new Refusal('IDEMPOTENCY_KEY_REUSED');
    throw error;
  }
}

async function lockSku(connection: PoolConnection, skuId: bigint): Promise<SkuRow> {
  const [rows] = await connection.query<RowDataPacket[]>(
    'SELECT * FROM skus WHERE sku_id = ? FOR UPDATE',
    [skuId],
  );
  if (rows[0] === undefined) throw new Refusal('NOT_FOUND', `There is no SKU ${skuId}`, { skuId });
  return skuOf(rows[0]);
}

/** Names the content of a creation, whatever becomes of the SKU later. */
function digestOf(sku: NewSku): Buffer {
  const content = [
    ...[sku.skuId, sku.title, sku.currency, sku.unitPriceMinor, sku.supplied],
    ...[sku.openTime?.getTime(), sku.closeTime?.getTime(), sku.limitPerUser, sku.paused],
  ];
  const text = JSON.stringify(content.map(String));
  return createHash('sha256').update(text).digest().subarray(0, 16);
}

function definedOf(changes: SkuChanges): Partial<SkuRow> {
  const entries = Object.entries(changes).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries.map(([name, value]) => [name, value ?? undefined]));
}

function checkWindow({ openTime, closeTime }: Pick<SkuRow, 'openTime' | 'closeTime'>): void {
  if (openTime && closeTime && closeTime.getTime() <= openTime.getTime()) {
    throw invalidRequest([{ field: 'close_time', description: 'must be after open_time' }]);
  }
}

function sameSettings(a: SkuRow, b: SkuRow): boolean {
  return (
    a.title === b.title &&
    a.currency === b.currency &&
    a.unitPriceMinor === b.unitPriceMinor &&
    a.openTime?.getTime() === b.openTime?.getTime() &&
    a.closeTime?.getTime() === b.closeTime?.getTime() &&
    a.limitPerUser === b.limitPerUser &&
    a.paused === b.paused
  );
}
