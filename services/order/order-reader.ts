import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { lockWaitTimeoutErrno, mysqlErrno } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OrderDraft } from './order-draft.ts';
import { slotOfOrder } from './order-id.ts';
import type { StoredOrder } from './order-rows.ts';
import { type OrderShards, tableSuffix } from './order-shards.ts';
import { byTable, readOrdersById, readOrdersByRequest } from './read-orders.ts';

/** Reads single orders; reads that come together travel together. */
export interface OrderReader {
  /** The order or fence under an id. @throws Refusal DEPENDENCY_DOWN or OVERLOADED */
  byId(orderId: bigint, deadline: Deadline): Promise<StoredOrder | undefined>;
  /**
   * The order that a request has made, waiting for one that is being written now: undefined means
   * that there is none. @throws Refusal OUTCOME_UNKNOWN if that could not be learned
   */
  lookUp(draft: OrderDraft, deadline: Deadline): Promise<StoredOrder | undefined>;
  close(): Promise<void>;
}

export interface OrderReaderOptions {
  readonly shards: OrderShards;
  readonly queueDepthMax: number;
  readonly metrics?: BatcherMetrics;
}

type Found = StoredOrder | undefined;

const readsMax = 200;
/** Each names a range of the index; more would make the server plan for longer than it reads. */
const lookUpsMax = 100;
const inFlightMax = 2;
/** A look-up that waits for a lock costs a second. */
const lookUpMsMax = 1_200;

export function createOrderReader(options: OrderReaderOptions): OrderReader {
  const { shards, queueDepthMax, metrics } = options;
  const common = { inFlightMax, queueDepthMax, ...(metrics ? { metrics } : {}) };

  const reads = new Batcher<bigint, Found>({
    ...common,
    name: 'order_read',
    entriesMax: readsMax,
    afterSend: 'DEPENDENCY_DOWN',
    keyOf: (orderId) => shards.databaseOf(slotOfOrder(orderId)),
    run: (orderIds, { deadline }) => readBatch(shards, orderIds, deadline),
  });

  const lookUps = new Batcher<OrderDraft, Found>({
    ...common,
    name: 'order_look_up',
    entriesMax: lookUpsMax,
    keyOf: ({ slot }) => shards.databaseOf(slot),
    run: (drafts, { deadline }) => lookUpBatch(shards, drafts, deadline),
  });

  return {
    byId: (orderId, deadline) => reads.add(orderId, deadline),
    async lookUp(draft, deadline) {
      try {
        return await lookUps.add(draft, deadline);
      } catch (cause) {
        throw new Refusal('OUTCOME_UNKNOWN', 'The request could not be looked up', { cause });
      }
    },
    async close() {
      await Promise.all([reads.close(), lookUps.close()]);
    },
  };
}

async function readBatch(
  shards: OrderShards,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<Found[]> {
  const { database } = shards.placeOfOrder(orderIds[0] as bigint);
  const found = new Map<bigint, StoredOrder>();
  for (const [table, group] of byTable(shards, orderIds, slotOfOrder)) {
    const orders = await readOrdersById(database, tableSuffix(table), group, deadline);
    for (const [orderId, stored] of orders) found.set(orderId, stored);
  }
  return orderIds.map((orderId) => found.get(orderId));
}

async function lookUpBatch(
  shards: OrderShards,
  drafts: readonly OrderDraft[],
  deadline: Deadline,
): Promise<(Found | Error)[]> {
  if (failpoints.on) {
    await failpoints.hit('order.before_look_up', { requestIds: drafts.map((d) => d.requestId) });
  }
  const results = new Map<OrderDraft, Found | Error>();
  const slotOf = ({ slot }: OrderDraft): number => slot;
  for (const [table, group] of byTable(shards, drafts, slotOf)) {
    await lookUpGroup(shards, table, group, results, deadline);
  }
  return drafts.map((draft) => results.get(draft));
}

/** All of a table at once; if one of them waits for a lock, one by one, so that the others do not. */
async function lookUpGroup(
  shards: OrderShards,
  table: number,
  group: readonly OrderDraft[],
  results: Map<OrderDraft, Found | Error>,
  deadline: Deadline,
): Promise<void> {
  const { database } = shards.place((group[0] as OrderDraft).slot);
  try {
    const options = { lock: true };
    const found = await readOrdersByRequest(database, tableSuffix(table), group, deadline, options);
    for (const draft of group) results.set(draft, found.get(draft.requestKey));
  } catch (error) {
    if (mysqlErrno(error) !== lockWaitTimeoutErrno) throw error;
    if (group.length === 1) {
      results.set(
        group[0] as OrderDraft,
        new Refusal('OUTCOME_UNKNOWN', undefined, { cause: error }),
      );
      return;
    }
    for (const draft of group) {
      if (deadline.leftMs() > lookUpMsMax) {
        await lookUpGroup(shards, table, [draft], results, deadline);
      } else {
        results.set(draft, new Refusal('OUTCOME_UNKNOWN', undefined, { cause: error }));
      }
    }
  }
}
