import type { Row } from '../stores.ts';
import type { OrderLook, PromiseCheck, StoresLook } from './promise.ts';
import { type HoldSums, recountHolds } from './recount-holds.ts';
import { readSkuIds } from './sku-ids.ts';
import { hold, isLive, statusName } from './states.ts';

/** P1: never oversell, counted from the rows of the ledger and from the lines of the orders. */
export const neverOversell: PromiseCheck = {
  id: 'P1',
  title: 'Never oversell',
  counts: (picture, count) => count('order lines', picture.items.length),
  lookAtOrder: lookAtLines,
  lookAtStores: lookAtFigures,
};

/** What an order's lines say is what its holds say. */
function lookAtLines({ picture, report }: OrderLook): void {
  const { order, orderId, items, holds } = picture;
  if (order === undefined || order.archived || !isLive(order.status)) return;
  for (const { skuId, quantity } of items) {
    const held = holds.find((row) => row.skuId === skuId);
    const subject = { orderId, skuId };
    if (held === undefined) {
      report({
        ...subject,
        kind: 'line-without-hold',
        sentence: `order ${orderId} (${statusName(order.status)}) has ${quantity} of SKU ${skuId}, and the ledger holds nothing for it`,
      });
    } else if (held.units !== quantity && held.state !== hold.fenced) {
      report({
        ...subject,
        kind: 'units-differ',
        sentence: `order ${orderId} has ${quantity} of SKU ${skuId}, and the ledger holds ${held.units}`,
      });
    }
  }
}

async function lookAtFigures(look: StoresLook): Promise<void> {
  const { stores, skuIds } = look;
  for await (const ids of readSkuIds(stores, skuIds)) {
    look.count('SKUs', ids.length);
    // A chunk of SKUs per snapshot: one must not last for minutes, because MySQL keeps old rows for it.
    await stores.stock.inSnapshot(async (rows) => {
      const figures = await rows(
        `SELECT sku_id, supplied, available, held, sold, limit_per_user FROM skus WHERE sku_id IN (${ids.join(',')}) ORDER BY sku_id`,
      );
      const skus = figures.map(([id, , , , , limit]) => ({
        skuId: String(id),
        limit: Number(limit),
      }));
      const recount = await recountHolds(rows, skus);
      for (const row of figures) compareFigures(look, row, recount.get(String(row[0])) as HoldSums);
    });
  }
}

function compareFigures(look: StoresLook, row: Row, sums: HoldSums): void {
  const skuId = String(row[0]);
  const [supplied = 0n, available = 0n, held = 0n, sold = 0n, limit = 0n] = row
    .slice(1)
    .map((value) => BigInt(String(value)));
  const inWords = `supplied ${supplied}, available ${available}, held ${held}, sold ${sold}`;
  const report = (kind: string, sentence: string): void => look.report({ kind, sentence, skuId });
  look.count('holds', sums.holds);
  if (supplied !== available + held + sold) {
    report('figures-do-not-add-up', `SKU ${skuId}: ${inWords} do not add up`);
  }
  if (supplied < 0n || available < 0n || held < 0n || sold < 0n) {
    report('negative-figure', `SKU ${skuId}: ${inWords}: a figure is negative`);
  }
  if (sums.held !== held || sums.sold !== sold) {
    report(
      'rows-differ-from-figures',
      `SKU ${skuId}: its holds add up to held ${sums.held} and sold ${sums.sold}, its row says held ${held} and sold ${sold}`,
    );
  }
  // A limit per user is as exact as Redis is durable, so exceeding it is told and breaks no promise.
  for (const { userId, units } of sums.overLimit) {
    look.report({
      kind: 'limit-exceeded',
      sentence: `user ${userId} has ${units} of SKU ${skuId}, whose limit per user is ${limit}`,
      skuId,
      isFinding: true,
    });
  }
}
