import type { Row } from '../stores.ts';
import type { OrderLook, PromiseCheck, StoresLook } from './promise.ts';
import { readSkuIds } from './sku-ids.ts';
import { hold, isLive, statusName } from './states.ts';

const examplesMax = 100;

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
    const list = ids.join(',');
    look.count('SKUs', ids.length);
    // A chunk of SKUs per snapshot: one must not last for minutes, because MySQL keeps old rows for it.
    const [figures, recount, overLimit] = await stores.stock.inSnapshot(async (rows) => [
      await rows(
        `SELECT sku_id, supplied, available, held, sold, limit_per_user FROM skus WHERE sku_id IN (${list})`,
      ),
      await rows(
        `SELECT sku_id, state, SUM(units), COUNT(*) FROM stock_holds FORCE INDEX (holds_by_buyer)
         WHERE sku_id IN (${list}) GROUP BY sku_id, state`,
      ),
      await rows(overLimitSql(list)),
    ]);
    compareFigures(look, figures as Row[], recount as Row[]);
    for (const [skuId, userId, units, limit] of overLimit as Row[]) {
      look.report({
        kind: 'limit-exceeded',
        sentence: `user ${userId} has ${units} of SKU ${skuId}, whose limit per user is ${limit}`,
        skuId: String(skuId),
        isFinding: true,
      });
    }
  }
}

/** A limit per user is as exact as Redis is durable, so exceeding it is told and breaks no promise. */
function overLimitSql(skuIds: string): string {
  return `SELECT h.sku_id, h.user_id, SUM(h.units) AS owned, MAX(s.limit_per_user)
    FROM skus s JOIN stock_holds h FORCE INDEX (holds_by_buyer) ON h.sku_id = s.sku_id
    WHERE s.sku_id IN (${skuIds}) AND s.limit_per_user > 0 AND h.state IN (${hold.held},${hold.sold})
    GROUP BY h.sku_id, h.user_id HAVING owned > MAX(s.limit_per_user) LIMIT ${examplesMax}`;
}

function compareFigures(look: StoresLook, figures: readonly Row[], recount: readonly Row[]): void {
  const units = new Map(
    recount.map(([id, state, sum]) => [`${id}/${state}`, BigInt(sum as string)]),
  );
  look.count(
    'holds',
    recount.reduce((sum, row) => sum + Number(row[3]), 0),
  );
  for (const [id, ...values] of figures) {
    const skuId = String(id);
    const [supplied = 0n, available = 0n, held = 0n, sold = 0n] = values.map((value) =>
      BigInt(value as string),
    );
    const inWords = `supplied ${supplied}, available ${available}, held ${held}, sold ${sold}`;
    const report = (kind: string, sentence: string): void => look.report({ kind, sentence, skuId });
    if (supplied !== available + held + sold) {
      report('figures-do-not-add-up', `SKU ${skuId}: ${inWords} do not add up`);
    }
    if (supplied < 0n || available < 0n || held < 0n || sold < 0n) {
      report('negative-figure', `SKU ${skuId}: ${inWords}: a figure is negative`);
    }
    const rowsHeld = units.get(`${skuId}/${hold.held}`) ?? 0n;
    const rowsSold = units.get(`${skuId}/${hold.sold}`) ?? 0n;
    if (rowsHeld !== held || rowsSold !== sold) {
      report(
        'rows-differ-from-figures',
        `SKU ${skuId}: its holds add up to held ${rowsHeld} and sold ${rowsSold}, its row says held ${held} and sold ${sold}`,
      );
    }
  }
}
