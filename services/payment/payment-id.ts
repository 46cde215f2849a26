import { randomInt } from 'node:crypto';

const epochMs = Date.UTC(2025, 0, 1);
/** 41 bits of milliseconds and 22 of chance make 63. */
const chanceBits = 22n;

/**
 * An id for a payment or a refund: 41 bits of time, 22 of chance, so that newer ones are greater. Two made in the same
 * millisecond collide once in four million; the primary key then refuses the second, whose caller tries again.
 */
export function nextId(nowMs = Date.now()): bigint {
  return (BigInt(nowMs - epochMs) << chanceBits) | BigInt(randomInt(2 ** Number(chanceBits)));
}
