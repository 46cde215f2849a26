import { createHash } from 'node:crypto';
import { type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { slotOfUser } from './order-id.ts';
import type { OrderShards } from './order-shards.ts';
import { readOrdersWhere } from './read-orders.ts';

/** Orders a page at most. */
export const pageSizeMax = 100;
/** Orders a page where the request names no size. */
export const pageSizeDefault = 20;

export interface OrderPage {
  readonly orders: Order[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/**
 * One page of a user's orders, newest first. All orders of a user live in one table, so a page is
 * one range of the index (user_id, order_id), however deep it is.
 *
 * @param beforeOrderId orders with smaller ids only; undefined for the first page
 * @throws Refusal DEPENDENCY_DOWN
 */
export async function listOrders(
  shards: OrderShards,
  userId: bigint,
  pageSize: number,
  beforeOrderId: bigint | undefined,
  deadline: Deadline,
): Promise<OrderPage> {
  const { database, table } = shards.place(slotOfUser(userId));
  const before = beforeOrderId === undefined ? '' : `AND order_id < ${beforeOrderId}`;
  const where = `user_id = ${userId} ${before} AND status <> ${OrderStatus.ORDER_STATUS_ABORTED}
     ORDER BY order_id DESC LIMIT ${pageSize + 1}`;
  const how = { indexHint: 'FORCE INDEX (user_orders)' };
  const found = await database.inTurn(
    () => readOrdersWhere(database, table, where, deadline, how),
    deadline,
  );
  const orders = found.slice(0, pageSize).map(({ order }) => order);
  const last = found.length > pageSize ? orders.at(-1) : undefined;
  return { orders, nextPageToken: last === undefined ? '' : encodePageToken(userId, last.orderId) };
}

const checkBytes = 4;
const tokenBytes = checkBytes + 8;

/** A page token: the last order shown, with a check that binds it to its user. */
export function encodePageToken(userId: bigint, lastOrderId: bigint): string {
  const token = Buffer.alloc(tokenBytes);
  checkOf(userId, lastOrderId).copy(token);
  token.writeBigInt64BE(lastOrderId, checkBytes);
  return token.toString('base64url');
}

/** The last order that was shown, or undefined if this user was never given such a token. */
export function decodePageToken(userId: bigint, token: string): bigint | undefined {
  const bytes = Buffer.from(token, 'base64url');
  if (bytes.length !== tokenBytes || bytes.toString('base64url') !== token) return undefined;
  const lastOrderId = bytes.readBigInt64BE(checkBytes);
  const check = checkOf(userId, lastOrderId);
  return check.equals(bytes.subarray(0, checkBytes)) ? lastOrderId : undefined;
}

/** Catches mistakes, not forgers: a forged token would only show the user's own orders. */
function checkOf(userId: bigint, lastOrderId: bigint): Buffer {
  const digest = createHash('sha256').update(`order-page ${userId} ${lastOrderId}`).digest();
  return digest.subarray(0, checkBytes);
}
