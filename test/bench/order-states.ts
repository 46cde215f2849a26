import type { RowDataPacket } from 'mysql2/promise';
import { connect } from './compare-with-mysql.ts';
import type { Stack } from './options.ts';
import type { Sale } from './sale.ts';

/** Orders of the sale by the number of their state, and holds by theirs. */
export interface StateCounts {
  readonly orders: Readonly<Record<string, number>>;
  readonly holds: Readonly<Record<string, number>>;
}

/** Counts the orders and the holds of a sale in MySQL. */
export async function countStates(stack: Stack, sale: Sale): Promise<StateCounts> {
  const orders: Record<string, number> = {};
  const { databases, tables } = stack.orderShards;
  for (let database = 0; database < databases; database += 1) {
    const connection = await connect(stack, database, `order_${database}`);
    try {
      for (let table = 0; table < tables; table += 1) {
        const [rows] = await connection.query<RowDataPacket[]>(
          `SELECT status, COUNT(*) AS count FROM orders_${String(table).padStart(2, '0')}
           WHERE user_id BETWEEN ? AND ? GROUP BY status`,
          [sale.firstUserId, sale.lastUserId],
        );
        for (const { status, count } of rows) {
          orders[status] = (orders[status] ?? 0) + Number(count);
        }
      }
    } finally {
      await connection.end();
    }
  }
  const ledger = await connect(stack, 0, 'stock');
  try {
    const [rows] = await ledger.query<RowDataPacket[]>(
      `SELECT state, COUNT(*) AS count FROM stock_holds WHERE sku_id BETWEEN ? AND ? GROUP BY state`,
      [sale.skuIds[0], sale.skuIds.at(-1)],
    );
    return { orders, holds: Object.fromEntries(rows.map((row) => [row.state, Number(row.count)])) };
  } finally {
    await ledger.end();
  }
}
