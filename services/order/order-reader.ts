import type { RowDataPacket } from 'mysql2/promise';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { isLockWait } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { type OrderDatabase, StaleSlotMap } from './order-database.ts';
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
/** How long look-ups wait for a transaction that is about to write one of their orders, in milliseconds. */
const lookUpWaitMs = 300;

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

/** Entries of one table. */
interface Place<Entry> {
  readonly database: OrderDatabase;
  readonly table: string;
  readonly group: readonly Entry[];
}

/** Entries of one lane share a database unless a slot of theirs has moved while they waited. */
function byPlace<Entry>(
  shards: OrderShards,
  entries: readonly Entry[],
  slotOf: (entry: Entry) => number,
): Place<Entry>[] {
  const { routes } = shards;
  const byDatabase = Map.groupBy(entries, (entry) => routes.databaseOf(slotOf(entry)));
  return [...byDatabase].flatMap(([index, ofDatabase]) =>
    [...byTable(routes, ofDatabase, slotOf)].map(([table, group]) => ({
      database: shards.database(index),
      table: tableSuffix(table),
      group,
    })),
  );
}

async function readBatch(
  shards: OrderShards,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<(Found | Error)[]> {
  const found = new Map<bigint, Found | Error>();
  const { version } = shards;
  const places = byPlace(shards, orderIds, slotOfOrder);
  for (const { database, table, group } of places) {
    const orders = await readOrdersById(database, table, group, deadline);
    for (const [orderId, stored] of orders) found.set(orderId, stored);
  }
  await doubtAbsence(shards, version, places, found, 'DEPENDENCY_DOWN', deadline);
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
  const { version } = shards;
  const places = byPlace(shards, drafts, slotOf);
  for (const place of places) await lookUpGroup(place, results, deadline);
  await doubtAbsence(shards, version, places, results, 'OUTCOME_UNKNOWN', deadline);
  return drafts.map((draft) => results.get(draft));
}

/**
 * Absence means absence only where the map is the one that led there: a slot that has moved has taken
 * its orders along. Entries that were not found in a database with another map are refused, and the
 * map is read again. To be called after the reads, since no order leaves before the version changes.
 */
async function doubtAbsence<Entry>(
  shards: OrderShards,
  version: number,
  places: readonly Place<Entry>[],
  results: Map<Entry, Found | Error>,
  reason: 'OUTCOME_UNKNOWN' | 'DEPENDENCY_DOWN',
  deadline: Deadline,
): Promise<void> {
  for (const [database, own] of Map.groupBy(places, (place) => place.database)) {
    const absent = own.flatMap(({ group }) => group.filter((entry) => !results.get(entry)));
    if (absent.length === 0) continue;
    const sql = 'SELECT version FROM slot_map WHERE id = 1';
    const [map] = await database.query<RowDataPacket[]>(sql, deadline);
    if (map?.version === version) continue;
    const cause = new StaleSlotMap(database.index);
    const refusal = new Refusal(reason, 'The order is being moved', { cause });
    for (const entry of absent) results.set(entry, refusal);
    await shards.refresh(database.index, deadline);
  }
}

/**
 * All of a table at once; if one of them waits for a lock, in halves down to it, so that the others do
 * not wait.
 */
async function lookUpGroup(
  { database, table, group }: Place<OrderDraft>,
  results: Map<OrderDraft, Found | Error>,
  deadline: Deadline,
  waitMs = lookUpWaitMs,
): Promise<void> {
  try {
    const found = await readOrdersByRequest(database, table, group, deadline, { lockMs: waitMs });
    for (const draft of group) results.set(draft, found.get(draft.requestKey));
  } catch (error) {
    if (!isLockWait(error)) throw error;
    if (group.length === 1) {
      const refusal = new Refusal('OUTCOME_UNKNOWN', undefined, { cause: error });
      results.set(group[0] as OrderDraft, refusal);
      return;
    }
    const middle = Math.ceil(group.length / 2);
    for (const half of [group.slice(0, middle), group.slice(middle)]) {
      await lookUpGroup({ database, table, group: half }, results, deadline, lockedMs);
    }
  }
}

/** What was locked for a while already is not waited for once more. */
const lockedMs = 20;
