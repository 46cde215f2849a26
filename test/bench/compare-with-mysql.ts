import { type Connection, createConnection, type RowDataPacket } from 'mysql2/promise';
import type { Stack } from './options.ts';
import { outcome, type Recorder } from './recorder.ts';
import type { Sale } from './sale.ts';

/**
 * Unknown outcomes settle within a minute (P4); a hold is first looked at 15 s after it was made. So long
 * nothing has to have changed before a disagreement counts: after an overload there are many of them.
 */
const defaultSettleMaxMs = 90_000;
/** The end of waiting while something still changes, in multiples of it. */
const settleSpansMax = 6;
const settleCheckMs = 2_000;
/** Kept of each kind of disagreement. */
const examplesMax = 5;
const heldState = 1;
const pendingStatus = 1;
const abortedStatus = 8;

/** What MySQL has after a run, and where it disagrees with the answers. */
export interface Comparison {
  /** Orders of the run in all shards. */
  readonly orders: number;
  /** Of those, orders whose answer was unknown or lost. */
  readonly ordersOfUnknown: number;
  readonly holds: number;
  readonly heldUnits: number;
  readonly ledger: {
    readonly supplied: number;
    readonly available: number;
    readonly held: number;
    readonly sold: number;
  };
  /** How long it took until the holds and the orders agreed. */
  readonly settledAfterMs: number;
  /** Empty if everything agrees. */
  readonly problems: readonly string[];
}

/** Counts orders and holds of the sale in MySQL and compares them with every single answer. */
export async function compareWithMysql(
  stack: Stack,
  sale: Sale,
  recorder: Recorder,
  { settleMaxMs = defaultSettleMaxMs } = {},
): Promise<Comparison> {
  const ledger = await connect(stack, 0, 'stock');
  try {
    const startMs = performance.now();
    let changedMs = startMs;
    let lastSeen = '';
    for (;;) {
      // Each time anew: an order whose answer was unknown may be stored after the last answer came.
      const orders = await compareOrders(stack, sale, recorder);
      const holds = await readHolds(ledger, sale);
      const problems = holdProblems(holds, orders.pending);
      const nowMs = performance.now();
      const passedMs = nowMs - startMs;
      const seen = JSON.stringify([orders.count, orders.pending, holds.rows, holds.units]);
      if (seen !== lastSeen) changedMs = nowMs;
      lastSeen = seen;
      const isOver = nowMs - changedMs >= settleMaxMs || passedMs > settleSpansMax * settleMaxMs;
      if (problems.length === 0 || isOver) {
        return {
          orders: orders.count,
          ordersOfUnknown: orders.ofUnknown,
          holds: holds.rows,
          heldUnits: holds.units,
          ledger: holds.ledger,
          settledAfterMs: Math.round(passedMs),
          problems: [...orders.problems, ...problems],
        };
      }
      await new Promise((resolve) => setTimeout(resolve, settleCheckMs));
    }
  } finally {
    await ledger.end();
  }
}

interface OrderRow extends RowDataPacket {
  readonly orderId: string;
  readonly number: string;
  readonly status: number;
}

async function compareOrders(
  stack: Stack,
  sale: Sale,
  recorder: Recorder,
): Promise<{ count: number; pending: number; ofUnknown: number; problems: string[] }> {
  const problems = new Problems();
  const seen = new Uint8Array(recorder.count);
  let count = 0;
  let pending = 0;
  let ofUnknown = 0;
  for await (const { orderId, number: text, status } of orderRows(stack, sale)) {
    const number = Number(text);
    count += 1;
    if (status === pendingStatus) pending += 1;
    if (!(number < recorder.count)) {
      problems.add('orders that were never offered', text);
      continue;
    }
    seen[number] = (seen[number] ?? 0) + 1;
    const answer = recorder.outcomeAt(number);
    if (seen[number] === 2) problems.add('requests with two orders', text);
    if (answer === outcome.ok && recorder.orderIdAt(number) !== BigInt(orderId)) {
      problems.add('orders answered under another id', text);
    } else if (answer === outcome.refused || answer === outcome.unserved) {
      problems.add('refused requests with an order', text);
    } else if (answer === outcome.notSent) {
      problems.add('orders of requests that were never sent', text);
    } else if (answer === outcome.unknown || answer === outcome.none) ofUnknown += 1;
  }
  for (let number = 0; number < recorder.count; number += 1) {
    if (recorder.outcomeAt(number) === outcome.ok && seen[number] === 0) {
      problems.add('orders answered "created" that are not in MySQL', String(number));
    }
  }
  return { count, pending, ofUnknown, problems: problems.list() };
}

/** The orders of the sale in every table of every database, a table at a time. */
async function* orderRows(stack: Stack, sale: Sale): AsyncGenerator<OrderRow> {
  const { databases, tables } = stack.orderShards;
  for (let database = 0; database < databases; database += 1) {
    const connection = await connect(stack, database, `order_${database}`);
    try {
      for (let table = 0; table < tables; table += 1) {
        const [rows] = await connection.query<OrderRow[]>(
          `SELECT CAST(order_id AS CHAR) AS orderId, CAST(SUBSTRING(request_id, ?) AS CHAR) AS number,
             status
           FROM orders_${String(table).padStart(2, '0')}
           WHERE user_id BETWEEN ? AND ? AND status <> ?`,
          [sale.requestPrefix.length + 1, sale.firstUserId, sale.lastUserId, abortedStatus],
        );
        yield* rows;
      }
    } finally {
      await connection.end();
    }
  }
}

interface Holds {
  readonly rows: number;
  readonly units: number;
  readonly ledger: Comparison['ledger'];
}

async function readHolds(connection: Connection, sale: Sale): Promise<Holds> {
  const range = [sale.skuIds[0], sale.skuIds.at(-1)];
  const [[holds]] = await connection.query<RowDataPacket[]>(
    `SELECT COUNT(*) AS count, COALESCE(SUM(units), 0) AS units FROM stock_holds
     WHERE sku_id BETWEEN ? AND ? AND state = ?`,
    [...range, heldState],
  );
  const [[skus]] = await connection.query<RowDataPacket[]>(
    `SELECT SUM(supplied) AS supplied, SUM(available) AS available, SUM(held) AS held,
       SUM(sold) AS sold FROM skus WHERE sku_id BETWEEN ? AND ?`,
    range,
  );
  return {
    rows: Number(holds?.count),
    units: Number(holds?.units),
    ledger: {
      supplied: Number(skus?.supplied),
      available: Number(skus?.available),
      held: Number(skus?.held),
      sold: Number(skus?.sold),
    },
  };
}

/**
 * Every order of the load has one line of one unit, so pending orders, holds and held units are one
 * number. In a long run the first orders have expired by the end, and their units are free again.
 */
function holdProblems({ rows, units, ledger }: Holds, orders: number): string[] {
  const problems: string[] = [];
  if (rows !== orders) problems.push(`${orders} orders but ${rows} holds that are HELD`);
  if (units !== ledger.held) problems.push(`${units} units in holds but ${ledger.held} held`);
  if (ledger.supplied !== ledger.available + ledger.held + ledger.sold) {
    problems.push(`supplied is not available + held + sold: ${JSON.stringify(ledger)}`);
  }
  if (ledger.available < 0) problems.push(`oversold: ${ledger.available} available`);
  return problems;
}

/** A connection to one of the stack's databases; `index` says on which server it is. */
export async function connect(stack: Stack, index: number, name: string): Promise<Connection> {
  const uri = stack.mysqlUrls[index % stack.mysqlUrls.length] as string;
  return createConnection({
    uri,
    database: `${stack.databasePrefix}_${name}`,
    supportBigNumbers: true,
    bigNumberStrings: true,
  });
}

/** Disagreements by kind, counted, with some examples. */
class Problems {
  readonly #byKind = new Map<string, { count: number; examples: string[] }>();

  add(kind: string, example: string): void {
    const entry = this.#byKind.get(kind) ?? { count: 0, examples: [] };
    entry.count += 1;
    if (entry.examples.length < examplesMax) entry.examples.push(example);
    this.#byKind.set(kind, entry);
  }

  list(): string[] {
    return [...this.#byKind].map(
      ([kind, { count, examples }]) => `${count} ${kind}, such as number ${examples.join(', ')}`,
    );
  }
}
