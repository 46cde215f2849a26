// The order service's ids as an operator reads them, written down once more: what checks a service must not
// believe the service's own arithmetic.

const epochMs = Date.UTC(2025, 0, 1);
const tailBits = 22n;
const slotShift = 12n;
const workerShift = 6n;
const slotCount = 1_024;
const workerCount = 64n;
const sequenceCount = 64n;
const maxSafeUser = BigInt(Number.MAX_SAFE_INTEGER);

/** The greatest id that fits int64. */
export const orderIdMax = 2n ** 63n - 1n;

/** What stands in an order id: 41 bits of ms since 2025, 10 of the slot, 6 of the worker, 6 of a sequence. */
export interface OrderIdParts {
  /** When it was made, on its maker's clock. */
  readonly time: Date;
  readonly slot: number;
  readonly worker: number;
  readonly sequence: number;
}

export function partsOfOrderId(orderId: bigint): OrderIdParts {
  return {
    time: new Date(Number(orderId >> tailBits) + epochMs),
    slot: slotOfOrder(orderId),
    worker: Number((orderId >> workerShift) % workerCount),
    sequence: Number(orderId % sequenceCount),
  };
}

/** The logical slot inside an id. */
export function slotOfOrder(orderId: bigint): number {
  return Number((orderId >> slotShift) % BigInt(slotCount));
}

/** The smallest id that could be made at `timeMs` (Unix time); smaller ids are older. */
export function firstOrderIdAt(timeMs: number): bigint {
  return BigInt(Math.max(0, Math.floor(timeMs) - epochMs)) << tailBits;
}

/** The slot that all orders of a user must be in: murmur3's finaliser over both halves of the user's id. */
export function slotOfUser(userId: bigint): number {
  let high: number;
  let low: number;
  if (userId <= maxSafeUser) {
    const number = Number(userId);
    high = Math.floor(number / 2 ** 32);
    low = (number % 2 ** 32) | 0;
  } else {
    high = Number(userId >> 32n);
    low = Number(BigInt.asIntN(32, userId));
  }
  return (mix(low ^ mix(high + 0x9e3779b9)) >>> 0) % slotCount;
}

function mix(value: number): number {
  let hash = value | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
