import { setTimeout as sleep } from 'node:timers/promises';
import type { Gate } from '../gates.ts';
import type { PromiseCheck, StoresLook } from './promise.ts';
import { readSkuIds } from './sku-ids.ts';

const lookEveryMs = 200;
const looksAtOnce = 8;
/** A gate whose figures changed at so many looks in a row is not at rest, and nothing is wrong with that. */
const changesInMotion = 5;

/** I5: at rest, the gate admits what the ledger has, and waits for nothing. */
export const gateEqualsLedger: PromiseCheck = {
  id: 'I5',
  title: 'Gate equals ledger, at rest',
  async lookAtStores(look) {
    for await (const skuIds of readSkuIds(look.stores, look.skuIds)) {
      for (let from = 0; from < skuIds.length; from += looksAtOnce) {
        const some = skuIds.slice(from, from + looksAtOnce);
        await Promise.all(some.map((skuId) => lookUntilSettled(look, skuId)));
      }
    }
  },
};

/** Looks at one gate until it agrees, is seen to be in motion, or has disagreed for the whole grace. */
async function lookUntilSettled(look: StoresLook, skuId: string): Promise<void> {
  let seen = '';
  let unchangedSinceMs = performance.now();
  for (let changes = 0; changes < changesInMotion; ) {
    const gate = await look.readGate(skuId);
    if (agrees(gate)) {
      look.count('gates at rest', 1);
      return;
    }
    const { loaded, state, available, ledgerAvailable, pendingOrders, epoch } = gate;
    const now = [loaded, state, available, ledgerAvailable, pendingOrders, epoch].join();
    const nowMs = performance.now();
    if (now !== seen) {
      if (seen !== '') changes += 1;
      seen = now;
      unchangedSinceMs = nowMs;
    } else if (nowMs - unchangedSinceMs > look.graceSeconds * 1_000) {
      look.count('gates at rest', 1);
      report(look, skuId, gate);
      return;
    }
    await sleep(lookEveryMs);
  }
  look.count('gates in motion', 1);
}

function agrees(gate: Gate): boolean {
  return gate.loaded && gate.available === gate.ledgerAvailable && gate.pendingOrders === 0n;
}

function report(look: StoresLook, skuId: string, gate: Gate): void {
  if (!gate.loaded) {
    const sentence = `the gate of SKU ${skuId} is not open (${gate.state}): nobody can buy it`;
    look.report({ kind: 'gate-not-open', sentence, skuId });
  } else if (gate.available !== gate.ledgerAvailable) {
    const sentence = `the gate of SKU ${skuId} has ${gate.available}, the ledger ${gate.ledgerAvailable}`;
    look.report({ kind: 'gate-differs', sentence, skuId });
  }
}
