/**
 * How an order id tells the time. The order service makes ids of 63 bits: 41 bits of milliseconds
 * since 2025-01-01 (UTC), then 22 bits that keep ids of one millisecond apart. Ids therefore ascend
 * with time, to within the difference of the makers' clocks.
 */
export const orderEpochMs = Date.UTC(2025, 0, 1);
/** Bits below the milliseconds: 10 slot, 6 worker, 6 sequence. */
export const orderIdTailBits = 22;

/** The smallest id that could be made at `timeMs` (Unix time); smaller ids are older. */
export function firstOrderIdAt(timeMs: number): bigint {
  return BigInt(Math.max(0, Math.floor(timeMs) - orderEpochMs)) << BigInt(orderIdTailBits);
}

/** When an id was made, in Unix time. */
export function orderIdTimeMs(orderId: bigint): number {
  return Number(orderId >> BigInt(orderIdTailBits)) + orderEpochMs;
}
