import type { PoolConnection, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { duplicateKeyErrno, mysqlErrno, type Pool, transaction } from '../runtime/mysql.ts';
import { decidePost, type PostDecision, type PostedOrder, type PostResult } from './decide-post.ts';
import { holdState } from './hold-states.ts';
import {
  type KnownBusySkus,
  type SkuLocks,
  skuLocksCount,
  skuLocksSql,
  skusGot,
  withSkuLocks,
} from './ledger-locks.ts';
import {
  addToFiguresSql,
  ascending,
  holdsByOrder,
  insertHoldsSql,
  type NewHold,
  readHoldsSql,
  runTogether,
} from './ledger-sql.ts';

/** A post that meets a key which is taken, or a watermark that has just been raised, begins again this often. */
const attemptsMax = 3;
const readWatermark = 'SELECT order_id FROM watermark WHERE id = 1';

/** The watermark passed an order of the post while it was being written: it must be decided anew. */
class WatermarkPassed extends Error {}

/**
 * Posts a batch of admitted orders to the ledger in one transaction: every order wholly or not at
 * all. Answers one result per order, in their order; BUSY for those of a SKU whose row another
 * transaction keeps locked, which nothing was done for.
 *
 * @throws Refusal OUTCOME_UNKNOWN if the commit was not answered, DEPENDENCY_DOWN if it was not
 *   reached; either way nobody but the ledger knows what became of the batch
 */
export async function postOrders(
  pool: Pool,
  busySkus: KnownBusySkus,
  orders: readonly PostedOrder[],
  deadline: Deadline,
): Promise<PostResult[]> {
  const skuIds = ascending(orders.flatMap(({ reservation }) => skuIdsOf(reservation)));
  for (let attempt = 1; ; attempt += 1) {
    try {
      const results = await withSkuLocks(skuIds, busySkus, (locks) =>
        postWith(pool, locks, orders, deadline),
      );
      if (failpoints.on) await failpoints.hit('stock.after_post_commit', { orders: orders.length });
      return results;
    } catch (error) {
      // The locks make a taken key impossible for the same SKU; should it happen, what is there decides.
      const again = mysqlErrno(error) === duplicateKeyErrno || error instanceof WatermarkPassed;
      if (!again || attempt >= attemptsMax) throw error;
    }
  }
}

function skuIdsOf({ lines }: PostedOrder['reservation']): bigint[] {
  return lines.map(({ skuId }) => skuId);
}

async function postWith(
  pool: Pool,
  locks: SkuLocks,
  orders: readonly PostedOrder[],
  deadline: Deadline,
): Promise<{ result: PostResult[]; busy: ReadonlySet<bigint> }> {
  const orderIds = [...new Set(orders.map(({ reservation }) => reservation.orderId))];
  // The locks come before the holds that they keep as they are.
  const opening = (kind: Parameters<typeof skuLocksSql>[0]): string[] => [
    ...skuLocksSql(kind, locks),
    readWatermark,
    ...readHoldsSql(orderIds),
  ];
  return await transaction(pool, { deadline, opening }, async (connection, opened) => {
    const count = skuLocksCount(locks);
    const { skus, busy } = skusGot(locks, opened.slice(0, count));
    const [watermarks = [], ...holdRows] = opened.slice(count);
    const watermark = BigInt(watermarks[0]?.order_id);
    if (failpoints.on) await failpoints.hit('stock.in_post', { orders: orders.length });
    const decision = decidePost(orders, {
      ...{ watermark, skus, busy },
      holds: holdsByOrder(holdRows),
    });
    if (decision.inserts.length > 0) await write(connection, orders, decision);
    if (failpoints.on) await failpoints.hit('stock.before_post_commit', { orders: orders.length });
    return { result: decision.results, busy };
  });
}

/**
 * Inserts the holds, and only then reads the watermark again, without a lock. Whoever raises it reads
 * the holds afterwards, those of transactions under way too: so either it sees these rows, or they see
 * what it raised. Nobody waits for the other.
 *
 * @throws WatermarkPassed if an order of the batch has died meanwhile
 */
async function write(
  connection: PoolConnection,
  orders: readonly PostedOrder[],
  { results, inserts, taken }: PostDecision,
): Promise<void> {
  const rows: NewHold[] = [];
  let lowest: bigint | undefined;
  for (const index of inserts) {
    const { orderId, userId, requestId, fingerprint, lines } = (orders[index] as PostedOrder)
      .reservation;
    if (lowest === undefined || orderId < lowest) lowest = orderId;
    const result = results[index] as Extract<PostResult, { kind: 'RESERVED' }>;
    for (const [line, { skuId, quantity: units }] of lines.entries()) {
      const { currency = '', minorUnits = 0n } = result.prices[line] ?? {};
      const order = { orderId, skuId, userId, requestId, fingerprint, units };
      rows.push({ ...order, unitPriceMinor: minorUnits, currency, state: holdState.HELD });
    }
  }
  const changes = new Map(
    [...taken].map(([skuId, units]) => [skuId, { available: -units, held: units, sold: 0n }]),
  );
  const written = await runTogether(connection, [
    ...insertHoldsSql(rows),
    ...addToFiguresSql(changes),
    readWatermark,
  ]);
  const raised = BigInt((written.at(-1) as RowDataPacket[])[0]?.order_id);
  if (lowest !== undefined && lowest <= raised) throw new WatermarkPassed();
}
