import type { PoolConnection, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { duplicateKeyErrno, mysqlErrno, type Pool, transaction } from '../runtime/mysql.ts';
import { decidePost, type PostDecision, type PostedOrder, type PostResult } from './decide-post.ts';
import { holdState } from './hold-states.ts';
import {
  addToFiguresSql,
  ascending,
  holdsByOrder,
  insertHoldsSql,
  lockedSkus,
  lockSkusSql,
  type NewHold,
  readHoldsSql,
  runTogether,
} from './ledger-sql.ts';

/** A key that is taken although it was not there is read again this often. */
const attemptsMax = 3;

/**
 * Posts a batch of admitted orders to the ledger in one transaction: every order wholly or not at
 * all. Answers one result per order, in their order.
 *
 * @throws Refusal OUTCOME_UNKNOWN if the commit was not answered, DEPENDENCY_DOWN if it was not
 *   reached; either way nobody but the ledger knows what became of the batch
 */
export async function postOrders(
  pool: Pool,
  orders: readonly PostedOrder[],
  deadline: Deadline,
): Promise<PostResult[]> {
  const opening = readsOf(orders);
  for (let attempt = 1; ; attempt += 1) {
    try {
      const { results } = await transaction(pool, { deadline, opening }, (connection, opened) =>
        postOnce(connection, orders, opened),
      );
      if (failpoints.on) await failpoints.hit('stock.after_post_commit', { orders: orders.length });
      return results;
    } catch (error) {
      // The locks make this impossible for the same SKU; should it happen, what is there decides.
      if (mysqlErrno(error) !== duplicateKeyErrno || attempt >= attemptsMax) throw error;
    }
  }
}

/** What a post reads before it decides, in this order: its locks come before the holds that they keep. */
function readsOf(orders: readonly PostedOrder[]): string[] {
  const skuIds = new Set<bigint>();
  for (const { reservation } of orders) {
    for (const { skuId } of reservation.lines) skuIds.add(skuId);
  }
  const orderIds = new Set(orders.map(({ reservation }) => reservation.orderId));
  return [lockWatermark, lockSkusSql(ascending(skuIds)), ...readHoldsSql([...orderIds])];
}

/** The shared lock makes raising the watermark wait for this post. */
const lockWatermark = 'SELECT order_id FROM watermark WHERE id = 1 LOCK IN SHARE MODE';

async function postOnce(
  connection: PoolConnection,
  orders: readonly PostedOrder[],
  [watermarks = [], skuRows = [], ...holdRows]: RowDataPacket[][],
): Promise<PostDecision> {
  const watermark = BigInt(watermarks[0]?.order_id);
  const [skus, holds] = [lockedSkus(skuRows), holdsByOrder(holdRows)];
  if (failpoints.on) await failpoints.hit('stock.in_post', { orders: orders.length });
  const decision = decidePost(orders, { watermark, skus, holds });
  if (decision.inserts.length > 0) await write(connection, orders, decision);
  if (failpoints.on) await failpoints.hit('stock.before_post_commit', { orders: orders.length });
  return decision;
}

async function write(
  connection: PoolConnection,
  orders: readonly PostedOrder[],
  { results, inserts, taken }: PostDecision,
): Promise<void> {
  const rows: NewHold[] = [];
  for (const index of inserts) {
    const { orderId, userId, requestId, fingerprint, lines } = (orders[index] as PostedOrder)
      .reservation;
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
  await runTogether(connection, [...insertHoldsSql(rows), ...addToFiguresSql(changes)]);
}
