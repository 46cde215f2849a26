/**
 * How an order id tells the time. The order service makes ids of 63 bits: 41 bits of milliseconds
 * since 2025-01-01 (UTC), then 22 bits that keep ids of one millisecond apart.
 */
const orderEpochMs = Date.UTC(2025, 0, 1);
const orderIdTailBits = 22n;

/** The smallest id that could be made at `timeMs` (Unix time); smaller ids are older. */
export function firstOrderIdAt(timeMs: number): bigint {
  return BigInt(Math.max(0, Math.floor(timeMs) - orderEpochMs)) << orderIdTailBits;
}
