import { slotCount } from '../../db/order/slot-map.ts';

// An order id, 63 bits: 41 ms since 2025-01-01 UTC | 10 logical slot | 6 worker | 6 sequence.

/** Ids count milliseconds from here; 41 bits last until 2094. */
export const idEpochMs = Date.UTC(2025, 0, 1);
/** Worker numbers, and so order processes at once. */
export const workerCount = 64;
/** Ids that one worker can make for one slot in one millisecond. */
export const sequenceCount = 64;
/** The greatest id that fits int64. */
export const orderIdMax = 2n ** 63n - 1n;

const workerBits = 6;
const sequenceBits = 6;
const slotShift = workerBits + sequenceBits;
const lowBits = slotShift + 10;
const lowBitsBig = BigInt(lowBits);
const twoTo32 = 2 ** 32;
const maxSafeUser = BigInt(Number.MAX_SAFE_INTEGER);

/** Puts an id together; `timeMs` is milliseconds since 1970. */
export function composeOrderId(
  timeMs: number,
  slot: number,
  worker: number,
  sequence: number,
): bigint {
  const low = (slot << slotShift) | (worker << sequenceBits) | sequence;
  return (BigInt(timeMs - idEpochMs) << lowBitsBig) | BigInt(low);
}

/** The logical slot inside an id, so that an id alone finds its table. */
export function slotOfOrder(orderId: bigint): number {
  return Number(BigInt.asUintN(lowBits, orderId)) >> slotShift;
}

/** When an id was made, in milliseconds since 1970 on its maker's clock. */
export function timeMsOfOrder(orderId: bigint): number {
  return Number(orderId >> lowBitsBig) + idEpochMs;
}

/** The worker number inside an id. */
export function workerOfOrder(orderId: bigint): number {
  return (Number(BigInt.asUintN(slotShift, orderId)) >> sequenceBits) & (workerCount - 1);
}

/**
 * The slot that all orders of a user live in: murmur3's 32-bit finaliser over both halves of the
 * id, modulo 1,024. Stored ids depend on it, so it never changes.
 */
export function slotOfUser(userId: bigint): number {
  let high: number;
  let low: number;
  if (userId <= maxSafeUser) {
    const number = Number(userId);
    high = Math.floor(number / twoTo32);
    low = (number % twoTo32) | 0;
  } else {
    high = Number(userId >> 32n);
    low = Number(BigInt.asIntN(32, userId));
  }
  let hash = low ^ mix(high + 0x9e3779b9);
  hash = mix(hash);
  return (hash >>> 0) % slotCount;
}

function mix(value: number): number {
  let hash = value | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
