import { setTimeout as sleep } from 'node:timers/promises';
import { Deadline } from '../runtime/deadline.ts';
import type { Pool } from '../runtime/mysql.ts';
import { readUnitsAndPending } from './gate-buyers.ts';
import type { GateConnection } from './gate-connection.ts';
import { readSkus, type SkuRow } from './ledger-skus.ts';

const closeLooks = 3;
const betweenMs = 50;
const deadlineMs = 5_000;

/**
 * Whether a gate in use contradicts the ledger, seen at every one of a few close looks. Too low: the
 * ledger, read first, had more than the gate has afterwards with all that is pending. Too high: the
 * gate, read first, had more than the ledger has afterwards. Orders and credits under way can make
 * neither true, but for those that pass all their steps between the two reads.
 *
 * @throws Refusal while Redis or the ledger is away
 */
export async function contradictsInUse(
  { pool, connection }: { readonly pool: Pool; readonly connection: GateConnection },
  { skuId, epoch }: Pick<SkuRow, 'skuId' | 'epoch'>,
): Promise<boolean> {
  let low = true;
  let high = true;
  for (let look = 0; look < closeLooks && (low || high); look += 1) {
    if (look > 0) await sleep(betweenMs);
    const before = await readLedger(pool, skuId);
    const gate = await readUnitsAndPending(connection, skuId);
    const after = await readLedger(pool, skuId);
    // What was installed meanwhile is right.
    if (before?.epoch !== epoch || after?.epoch !== epoch) return false;
    if (gate.available === undefined) return false;
    low &&= Number(before.available) > gate.available + gate.pendingUnits;
    high &&= gate.available > Number(after.available);
  }
  return low || high;
}

async function readLedger(pool: Pool, skuId: bigint): Promise<SkuRow | undefined> {
  const [sku] = await readSkus(pool, [skuId], Deadline.after(deadlineMs));
  return sku;
}
