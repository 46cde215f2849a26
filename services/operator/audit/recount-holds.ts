import type { Row } from '../stores.ts';
import { hold } from './states.ts';

/** Rows that one statement reads at most, beside those of one user. */
const pageRows = 20_000;

/** Reads in one moment of the ledger. */
export type ReadRows = (sql: string) => Promise<Row[]>;

/** What the holds of a SKU add up to. */
export interface HoldSums {
  held: bigint;
  sold: bigint;
  /** Holds, whatever their state. */
  holds: number;
  /** A user with more than the limit, and how much, for some of them. */
  readonly overLimit: { readonly userId: string; readonly units: string }[];
}

/** A SKU and its limit per user; 0 is no limit. */
export interface CountedSku {
  readonly skuId: string;
  readonly limit: number;
}

const examplesMax = 100;

/**
 * Adds up the holds of some SKUs, ascending by id: over the index alone, and page by page, so that no statement runs long however
 * many holds there are. SKUs with few holds share a statement.
 *
 * No index is forced: MySQL looks into an index, instead of guessing by its averages, only where it is free to choose, and by the
 * average SKU it would read all of it.
 */
export async function recountHolds(
  rows: ReadRows,
  skus: readonly CountedSku[],
): Promise<Map<string, HoldSums>> {
  const sums = new Map<string, HoldSums>(
    skus.map(({ skuId }) => [skuId, { held: 0n, sold: 0n, holds: 0, overLimit: [] }]),
  );
  for (let left = skus; left.length > 0; ) {
    const end = await skuAtEndOfPage(rows, left);
    const few = end === undefined ? left : left.filter(({ skuId }) => BigInt(skuId) < end);
    await addUp(rows, sums, few, '');
    if (end === undefined) break;
    left = left.slice(few.length);
    if (left[0] === undefined || BigInt(left[0].skuId) !== end) continue;
    await addUpByUsers(rows, sums, left[0]);
    left = left.slice(1);
  }
  return sums;
}

/**
 * The SKU of the last row of a page that begins with the first of these; undefined if the page goes behind the last of them. By the
 * range of the ids: for a list of them MySQL goes through the whole index until it meets the first.
 */
async function skuAtEndOfPage(
  rows: ReadRows,
  skus: readonly CountedSku[],
): Promise<bigint | undefined> {
  const [end] = await rows(
    `SELECT sku_id FROM stock_holds WHERE sku_id >= ${skus[0]?.skuId} AND sku_id <= ${skus.at(-1)?.skuId}
     ORDER BY sku_id LIMIT 1 OFFSET ${pageRows - 1}`,
  );
  return end === undefined ? undefined : BigInt(String(end[0]));
}

/** A page of users at a time; a user with more holds than a page is one by himself. */
async function addUpByUsers(
  rows: ReadRows,
  sums: ReadonlyMap<string, HoldSums>,
  sku: CountedSku,
): Promise<void> {
  for (let after = '-1'; ; ) {
    const behind = `user_id > ${after}`;
    const from = `FROM stock_holds WHERE sku_id = ${sku.skuId} AND ${behind}`;
    const [end] = await rows(
      `SELECT user_id ${from} ORDER BY user_id LIMIT 1 OFFSET ${pageRows - 1}`,
    );
    if (end === undefined) {
      await addUp(rows, sums, [sku], ` AND ${behind}`);
      return;
    }
    const [first] = await rows(`SELECT user_id ${from} ORDER BY user_id LIMIT 1`);
    const userId = BigInt(String(end[0]));
    const until = String(first?.[0]) === String(end[0]) ? userId : userId - 1n;
    await addUp(rows, sums, [sku], ` AND ${behind} AND user_id <= ${until}`);
    after = String(until);
  }
}

async function addUp(
  rows: ReadRows,
  sums: ReadonlyMap<string, HoldSums>,
  skus: readonly CountedSku[],
  users: string,
): Promise<void> {
  if (skus.length === 0) return;
  const where = `FROM stock_holds WHERE sku_id IN (${listOf(skus)})${users}`;
  const counted = await rows(
    `SELECT sku_id, state, SUM(units), COUNT(*) ${where} GROUP BY sku_id, state`,
  );
  for (const [skuId, state, units, holds] of counted) {
    const sum = sums.get(String(skuId)) as HoldSums;
    sum.holds += Number(holds);
    if (Number(state) === hold.held) sum.held += BigInt(String(units));
    else if (Number(state) === hold.sold) sum.sold += BigInt(String(units));
  }
  const limited = skus.filter(({ limit }) => limit > 0);
  if (limited.length === 0) return;
  const limits = limited.map(({ skuId, limit }) => `WHEN ${skuId} THEN ${limit}`).join(' ');
  const over = await rows(
    `SELECT sku_id, user_id, SUM(units) AS owned FROM stock_holds
     WHERE sku_id IN (${listOf(limited)})${users} AND state IN (${hold.held},${hold.sold})
     GROUP BY sku_id, user_id HAVING owned > CASE sku_id ${limits} END LIMIT ${examplesMax}`,
  );
  for (const [skuId, userId, units] of over) {
    sums.get(String(skuId))?.overLimit.push({ userId: String(userId), units: String(units) });
  }
}

function listOf(skus: readonly CountedSku[]): string {
  return skus.map(({ skuId }) => skuId).join(',');
}
