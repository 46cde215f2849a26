import type { GateConnection } from './gate-connection.ts';
import { gateFailure } from './gate-failure.ts';
import { skuKeys } from './redis-keys.ts';

/** How many users a gate knows. @throws Refusal DEPENDENCY_DOWN or OUTCOME_UNKNOWN without Redis */
export async function countBuyers({ redis }: GateConnection, skuId: bigint): Promise<number> {
  const fields = await redis.hlen(skuKeys(skuId).buyers).catch(rethrow);
  // Field 0 is no user's; every installed gate has it.
  return Math.max(0, fields - 1);
}

/** What a gate believes some users to have, in their order; undefined for users it does not know. */
export async function readBuyers(
  { redis }: GateConnection,
  skuId: bigint,
  userIds: readonly bigint[],
): Promise<(number | undefined)[]> {
  if (userIds.length === 0) return [];
  const units = await redis.hmget(skuKeys(skuId).buyers, ...userIds.map(String)).catch(rethrow);
  return units.map((text) => (text === null ? undefined : Number(text)));
}

/** Some users that a gate knows, about `count` of them; cursor '0' begins and ends a scan. */
export async function scanBuyers(
  { redis }: GateConnection,
  skuId: bigint,
  cursor: string,
  count: number,
): Promise<{ cursor: string; userIds: bigint[] }> {
  const key = skuKeys(skuId).buyers;
  const [next, fields] = await redis.hscan(key, cursor, 'COUNT', count).catch(rethrow);
  const userIds: bigint[] = [];
  for (let at = 0; at < fields.length; at += 2) {
    // A user of another kind cannot have been written by a gate; field 0 is no user's.
    if (/^[1-9]\d{0,18}$/.test(fields[at] ?? '')) userIds.push(BigInt(fields[at] as string));
  }
  return { cursor: next, userIds };
}

/** A gate's figure and the units of its pending orders, of one moment. */
export async function readUnitsAndPending(
  { redis }: GateConnection,
  skuId: bigint,
): Promise<{ available: number | undefined; pendingUnits: number }> {
  const { avail, entries } = skuKeys(skuId);
  const replies = await redis.multi().get(avail).hvals(entries).exec().catch(rethrow);
  const [available, pending] = (replies ?? []).map(([error, reply]) => {
    if (error) throw gateFailure(error);
    return reply;
  }) as [string | null, string[]];
  let pendingUnits = 0;
  for (const entry of pending) pendingUnits += Number.parseInt(entry, 10) || 0;
  return { available: available === null ? undefined : Number(available), pendingUnits };
}

function rethrow(error: unknown): never {
  throw gateFailure(error);
}
