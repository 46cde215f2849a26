import assert from 'node:assert/strict';
import { test } from 'node:test';
import { initialSlots, slotCount } from '../../db/order/slot-map.ts';
import {
  composeOrderId,
  idEpochMs,
  orderIdMax,
  slotOfOrder,
  slotOfUser,
  timeMsOfOrder,
  workerOfOrder,
} from '../../services/order/order-id.ts';

/** Read once and kept: another value would lose stored orders. */
const fixedSlots = [230, 609, 728, 888, 932, 722];

test('an id carries its time, slot, worker and sequence and takes them back out', () => {
  const timeMs = idEpochMs + 60_123_456_789;
  for (const [slot, worker, sequence] of [
    [0, 0, 0],
    [1023, 63, 63],
    [512, 1, 62],
  ] as const) {
    const id = composeOrderId(timeMs, slot, worker, sequence);
    assert.equal(timeMsOfOrder(id), timeMs);
    assert.equal(slotOfOrder(id), slot);
    assert.equal(workerOfOrder(id), worker);
    assert.equal(id & 63n, BigInt(sequence));
  }
});

test('the last millisecond of 41 bits still fits 63 bits', () => {
  const id = composeOrderId(idEpochMs + 2 ** 41 - 1, 1023, 63, 63);
  assert.equal(id, orderIdMax);
});

test('ids grow with their time, whatever slot, worker and sequence they carry', () => {
  const earlier = composeOrderId(idEpochMs + 1_000, 1023, 63, 63);
  const later = composeOrderId(idEpochMs + 1_001, 0, 0, 0);
  assert.ok(later > earlier);
});

test('the slot of a user never changes: stored ids depend on these', () => {
  const known: [bigint, number][] = [
    [1n, slotOfUserByBigInt(1n)],
    [1001n, slotOfUserByBigInt(1001n)],
    [2n ** 32n, slotOfUserByBigInt(2n ** 32n)],
    [2n ** 53n - 1n, slotOfUserByBigInt(2n ** 53n - 1n)],
    [2n ** 53n, slotOfUserByBigInt(2n ** 53n)],
    [2n ** 63n - 1n, slotOfUserByBigInt(2n ** 63n - 1n)],
  ];
  for (const [userId, slot] of known) assert.equal(slotOfUser(userId), slot, `user ${userId}`);
  assert.deepEqual(
    known.map(([, slot]) => slot),
    fixedSlots,
  );
});

test('users in a row spread evenly over the slots', () => {
  const counts = new Array<number>(slotCount).fill(0);
  const users = 200_000;
  for (let user = 1; user <= users; user += 1) counts[slotOfUser(BigInt(user))]! += 1;
  const mean = users / slotCount;
  for (const count of counts) assert.ok(count > mean * 0.6 && count < mean * 1.4, `${count} users`);
});

test('the first map spreads the slots evenly over databases and tables', () => {
  const shards = { databases: 2, tables: 8 };
  const counts = new Map<string, number>();
  for (const place of initialSlots(shards)) {
    counts.set(place.join('/'), (counts.get(place.join('/')) ?? 0) + 1);
  }
  assert.equal(counts.size, 16);
  for (const count of counts.values()) assert.equal(count, slotCount / 16);
});

/** The documented hash, written again in 64-bit arithmetic. */
function slotOfUserByBigInt(userId: bigint): number {
  const mask = 0xffffffffn;
  const mix = (value: bigint): bigint => {
    let hash = value & mask;
    hash = ((hash ^ (hash >> 16n)) * 0x85ebca6bn) & mask;
    hash = ((hash ^ (hash >> 13n)) * 0xc2b2ae35n) & mask;
    return hash ^ (hash >> 16n);
  };
  const high = mix((userId >> 32n) + 0x9e3779b9n);
  return Number(mix((userId & mask) ^ high) % 1024n);
}
