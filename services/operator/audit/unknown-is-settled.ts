import type { PromiseCheck, StoresLook } from './promise.ts';
import { readSkuIds } from './sku-ids.ts';
import { hold, holdName } from './states.ts';
import { lookAtWatermark } from './watermark-ahead.ts';

const looksAtOnce = 8;

/** P4: what could not be answered is settled: no stock waits for an order that never came. */
export const unknownIsSettled: PromiseCheck = {
  id: 'P4',
  title: 'Unknown is settled',
  counts: (picture, count) => count('holds', picture.holds.length),
  lookAtOrder({ picture, report }) {
    const { order, orderId } = picture;
    if (order !== undefined) return;
    for (const { skuId, state, units } of picture.holds) {
      if (state === hold.released || state === hold.fenced) continue;
      report({
        kind: 'hold-without-order',
        sentence: `${units} of SKU ${skuId} are ${holdName(state)} for order ${orderId}, which does not exist`,
        orderId,
        skuId,
      });
    }
  },
  async lookAtStores(look) {
    await lookAtWatermark(look);
    await lookAtPending(look);
  },
};

/** What the gate admitted is posted or fenced soon; an old pending entry is somebody's unit that nobody settles. */
async function lookAtPending(look: StoresLook): Promise<void> {
  for await (const skuIds of readSkuIds(look.stores, look.skuIds)) {
    for (let from = 0; from < skuIds.length; from += looksAtOnce) {
      const some = skuIds.slice(from, from + looksAtOnce);
      const gates = await Promise.all(some.map((skuId) => look.readGate(skuId)));
      look.count('gates', gates.length);
      for (const [index, { pendingOrders, oldestPendingAgeMs }] of gates.entries()) {
        if (oldestPendingAgeMs <= look.graceSeconds * 1_000) continue;
        const skuId = some[index] as string;
        const ageSeconds = oldestPendingAgeMs / 1_000n;
        look.report({
          kind: 'pending-too-long',
          sentence: `the gate of SKU ${skuId} has ${pendingOrders} pending orders, the oldest for ${ageSeconds} s`,
          skuId,
        });
      }
    }
  }
}
