import { slotOfOrder, slotOfUser } from '../order-id.ts';
import { tableSuffixes } from '../stores.ts';
import type { OrderLook, PromiseCheck, StoresLook } from './promise.ts';
import { order as state } from './states.ts';

/**
 * P2: one order per (user, request id). Each table's unique key makes it true within the table; so it is true over all
 * tables if all orders of a user are in the one table that the user's slot lives in. Both are looked at.
 */
export const oneOrderPerRequest: PromiseCheck = {
  id: 'P2',
  title: 'One order per request',
  counts: (picture, count) => count('orders', picture.orders.length),
  lookAtOrder: lookAtPlace,
  lookAtStores: lookAtKeys,
};

function lookAtPlace({ picture, slots, report }: OrderLook): void {
  const { orders, orderId } = picture;
  const flaw = (kind: string, sentence: string): void => report({ kind, sentence, orderId });
  if (orders.length > 1) {
    const places = orders.map(({ place }) => place).join(' and ');
    flaw('order-twice', `order ${orderId} is in ${places} (database/table)`);
  }
  const slot = slotOfOrder(BigInt(orderId));
  const [database, table] = slots[slot] as readonly [number, number];
  const place = `${database}/${String(table).padStart(2, '0')}`;
  for (const row of orders) {
    if (row.archived) continue;
    if (row.place !== place) {
      flaw(
        'order-in-wrong-table',
        `order ${orderId} is in ${row.place}, but its slot ${slot} lives in ${place}: its request may have another order there`,
      );
    }
    if (row.status === state.aborted) continue;
    if (slotOfUser(BigInt(row.userId)) !== slot) {
      flaw(
        'order-of-wrong-slot',
        `order ${orderId} is of slot ${slot}, but its user's orders are of slot ${slotOfUser(BigInt(row.userId))}: its request may have another order there`,
      );
    }
    if (!row.hasRequestId) {
      flaw(
        'no-request-id',
        `order ${orderId} has no request id, so a retry would make another one`,
      );
    }
  }
}

async function lookAtKeys({ stores, count, report }: StoresLook): Promise<void> {
  for (const database of stores.orders) {
    const rows = await database.rows(
      `SELECT table_name, GROUP_CONCAT(column_name ORDER BY seq_in_index), MAX(non_unique)
       FROM information_schema.statistics
       WHERE table_schema = '${database.name}' AND index_name = 'user_request' GROUP BY table_name`,
    );
    const unique = new Set(
      rows
        .filter(
          ([, columns, nonUnique]) => columns === 'user_id,request_id' && Number(nonUnique) === 0,
        )
        .map(([table]) => table),
    );
    for (const suffix of tableSuffixes(stores)) {
      count('unique keys', 1);
      if (unique.has(`orders_${suffix}`)) continue;
      report({
        kind: 'unique-key-missing',
        sentence: `${database.name}.orders_${suffix} has no unique key user_request (user_id, request_id)`,
      });
    }
  }
}
