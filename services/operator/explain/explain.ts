import type { Log } from '../../runtime/log.ts';
import { order as orderState, statusName } from '../audit/states.ts';
import type { OperatorConfig } from '../config.ts';
import { partsOfOrderId, slotOfOrder } from '../order-id.ts';
import type { Stores } from '../stores.ts';
import { archivedLines } from './archived-order.ts';
import { askServices, type ServiceAnswer } from './ask-services.ts';
import type { LifeEvent, OrderLine, StoredRows } from './life-event.ts';
import { lifeInKafka } from './life-in-kafka.ts';
import { lifeInMysql } from './life-in-mysql.ts';
import { readRows } from './read-rows.ts';

export interface Explanation {
  readonly orderId: string;
  /** An order; a fence under an id that was given up; an order that was archived; nothing. */
  readonly exists: 'order' | 'fence' | 'archived' | 'nothing';
  /** The answer in one sentence. */
  readonly summary: string;
  /** What the id itself says. */
  readonly id: {
    readonly time: string;
    readonly slot: number;
    readonly worker: number;
    readonly sequence: number;
    readonly place: string;
  };
  readonly lines: readonly OrderLine[];
  /** In time order; what has no time comes last. */
  readonly life: readonly LifeEvent[];
  readonly services: readonly ServiceAnswer[];
  /** What could not be read. */
  readonly gaps: readonly string[];
  /** Everything that MySQL has, as it is stored. */
  readonly rows: StoredRows;
}

export interface ExplainOptions {
  readonly config: OperatorConfig;
  readonly stores: Stores;
  readonly orderId: bigint;
  readonly withKafka: boolean;
  readonly log: Log;
}

/** Gathers the life of one order from every store. @throws CouldNotLook if MySQL cannot be read */
export async function explain(options: ExplainOptions): Promise<Explanation> {
  const { config, stores, orderId, withKafka, log } = options;
  const { time, slot, worker, sequence } = partsOfOrderId(orderId);
  const [database, table] = stores.slots[slotOfOrder(orderId)] as readonly [number, number];
  const { rows, gaps } = await readRows(stores, orderId);
  const exists = existenceOf(rows);
  const lines = linesOf(rows);
  const life = lifeInMysql(rows);
  // An id that nothing is stored under has no events either; its partition need not be read.
  if (withKafka && Object.values(rows).some((stored) => stored.length > 0)) {
    try {
      const { events, isComplete } = await lifeInKafka(config, orderId, time.getTime(), log);
      life.push(...events);
      if (!isComplete) gaps.push('Kafka has more messages since then than were read.');
    } catch (error) {
      const brokers = config.kafkaBrokers.join(',');
      const reason = (error as Error).message;
      gaps.push(`Kafka at ${brokers} could not be read (${reason}): is it running?`);
    }
  }
  const held = (rows.stock_holds ?? []).map((row) => String(row.sku_id));
  const skuIds = new Set([...lines.map(({ skuId }) => skuId), ...held]);
  return {
    orderId: String(orderId),
    exists,
    summary: summaryOf(String(orderId), exists, rows),
    id: {
      time: time.toISOString(),
      slot,
      worker,
      sequence,
      place: `database ${database}, table ${String(table).padStart(2, '0')}`,
    },
    lines,
    life: inTimeOrder(life),
    services: await askServices(config, orderId, [...skuIds], log),
    gaps,
    rows,
  };
}

function existenceOf(rows: StoredRows): Explanation['exists'] {
  const [order] = rows.orders ?? [];
  if (order !== undefined) {
    return Number(order.status) === orderState.aborted ? 'fence' : 'order';
  }
  return (rows.archived_orders ?? []).length > 0 ? 'archived' : 'nothing';
}

function linesOf(rows: StoredRows): OrderLine[] {
  const stored = (rows.order_items ?? []).map((row) => ({
    skuId: String(row.sku_id),
    quantity: Number(row.quantity),
    unitPriceMinor: String(row.unit_price_minor),
  }));
  return stored.length > 0 ? stored : (rows.archived_orders ?? []).flatMap(archivedLines);
}

function summaryOf(orderId: string, exists: Explanation['exists'], rows: StoredRows): string {
  const name = `Order ${orderId}`;
  const [order] = rows.orders ?? [];
  const [archived] = rows.archived_orders ?? [];
  if (exists === 'order') {
    return `${name} is ${statusName(Number(order?.status))}, version ${order?.version}, of user ${order?.user_id}.`;
  }
  if (exists === 'archived') {
    const status = statusName(Number(archived?.status));
    return `${name} is in the archive: it was ${status} and old. GetOrder does not find it any more.`;
  }
  const stock = (rows.stock_holds ?? []).length;
  const left = stock > 0 ? ` Stock has ${stock} rows under the id, listed below.` : '';
  if (exists === 'fence') {
    return `${name} does not exist and never will: its attempt was given up, and a fence (ABORTED) bars the id.${left}`;
  }
  return `${name} does not exist: no store has an order, a fence or an archived order under this id.${left}`;
}

function inTimeOrder(life: readonly LifeEvent[]): LifeEvent[] {
  return [...life].sort((a, b) => {
    if (a.time === undefined || b.time === undefined) {
      return Number(a.time === undefined) - Number(b.time === undefined);
    }
    return a.time < b.time ? -1 : a.time > b.time ? 1 : 0;
  });
}
