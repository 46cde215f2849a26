import { Batcher } from '../runtime/batcher.ts';
import type { DatabaseCircuit } from '../runtime/database-circuit.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Pool } from '../runtime/mysql.ts';
import type { PostedOrder, PostResult } from './decide-post.ts';
import type { Gate, GateEntry, GateReply } from './gate.ts';
import type { HoldState } from './hold-states.ts';
import { type FenceEntry, fenceLines } from './ledger-fence.ts';
import type { KnownBusySkus } from './ledger-locks.ts';
import { postOrders } from './ledger-post.ts';
import type { StockMetrics } from './stock-metrics.ts';

/** Entries of one Lua call, and rows of one post, at most. */
const batchMax = 512;
/** Calls under way per SKU; each costs Redis some 12 µs before its first entry, so few are better. */
const gateInFlightMax = 1;
/** Posts under way: they share row locks, so more would only wait inside MySQL. */
const postsInFlightMax = 2;
/** Chunks waiting; the orders in them are bounded by the reservation itself. */
const queueDepthMax = 10_000;

/** Part of one call that goes to one SKU's gate. */
export interface GateChunk {
  readonly skuId: bigint;
  readonly entries: readonly GateEntry[];
}

/**
 * The batches of a reservation. What waits in them are chunks, the parts of one incoming batch that
 * belong together, so that a batch of 500 orders costs one promise a hop and not 500.
 */
export interface ReserveBatches {
  readonly gate: Batcher<GateChunk, GateReply>;
  /** The same, but asks only. */
  readonly ask: Batcher<GateChunk, GateReply>;
  readonly posts: Batcher<readonly PostedOrder[], PostResult[]>;
  readonly fences: Batcher<readonly FenceEntry[], (HoldState | undefined)[]>;
}

export interface ReserveBatchesOptions {
  readonly gate: Gate;
  readonly pool: Pool;
  readonly busySkus: KnownBusySkus;
  readonly ledger: Pick<DatabaseCircuit, 'fire'>;
  readonly metrics: StockMetrics;
}

export function createReserveBatches(options: ReserveBatchesOptions): ReserveBatches {
  const { pool, busySkus, ledger, metrics } = options;
  const { batchEntries, chunkHops } = metrics;
  const common = { entriesMax: batchMax, bytesMax: batchMax, queueDepthMax, metrics: chunkHops };
  return {
    gate: gateBatcher(options, 'take'),
    ask: gateBatcher(options, 'ask'),
    posts: new Batcher<readonly PostedOrder[], PostResult[]>({
      ...common,
      name: 'stock_to_ledger',
      inFlightMax: postsInFlightMax,
      sizeOf: rowsOf,
      async run(chunks, { deadline }) {
        const orders = joined(chunks);
        batchEntries.observe({ hop: 'stock_to_ledger' }, orders.length);
        if (failpoints.on) await failpoints.hit('stock.before_post', { orders: orders.length });
        const post = () => postOrders(pool, busySkus, orders, deadline);
        return split(await ledger.fire(post), chunks);
      },
    }),
    fences: new Batcher<readonly FenceEntry[], (HoldState | undefined)[]>({
      ...common,
      name: 'stock_to_fences',
      inFlightMax: 1,
      sizeOf: (chunk) => chunk.length,
      async run(chunks, { deadline }) {
        return split(await fenceLines(pool, busySkus, joined(chunks), deadline), chunks);
      },
    }),
  };
}

/** One lane for each SKU; what asks only waits for nothing that takes. */
function gateBatcher(
  { gate, metrics: { batchEntries, chunkHops } }: ReserveBatchesOptions,
  mode: 'take' | 'ask',
): Batcher<GateChunk, GateReply> {
  const name = mode === 'take' ? 'stock_to_gate' : 'stock_to_gate_ask';
  return new Batcher<GateChunk, GateReply>({
    name,
    entriesMax: batchMax,
    bytesMax: batchMax,
    queueDepthMax,
    metrics: chunkHops,
    inFlightMax: gateInFlightMax,
    keyOf: ({ skuId }) => skuId,
    sizeOf: ({ entries }) => entries.length,
    async run(chunks, { deadline }) {
      const { skuId } = chunks[0] as GateChunk;
      const entries = joined(chunks.map((chunk) => chunk.entries));
      batchEntries.observe({ hop: name }, entries.length);
      if (failpoints.on && mode === 'take') await failpoints.hit('stock.before_gate', { skuId });
      const reply = await gate.reserve(skuId, entries, deadline, mode);
      if (failpoints.on && mode === 'take') await failpoints.hit('stock.after_gate', { skuId });
      if (failpoints.on && mode === 'ask') await failpoints.hit('stock.after_ask', { skuId });
      return splitReply(reply, chunks);
    },
  });
}

/** Cuts orders into chunks of at most as many rows as a post may have. */
export function postChunks(orders: readonly PostedOrder[]): PostedOrder[][] {
  const chunks: PostedOrder[][] = [];
  let chunk: PostedOrder[] = [];
  let rows = 0;
  for (const order of orders) {
    const { length } = order.reservation.lines;
    if (rows + length > batchMax && chunk.length > 0) {
      chunks.push(chunk);
      chunk = [];
      rows = 0;
    }
    chunk.push(order);
    rows += length;
  }
  if (chunk.length > 0) chunks.push(chunk);
  return chunks;
}

function rowsOf(chunk: readonly PostedOrder[]): number {
  let rows = 0;
  for (const { reservation } of chunk) rows += reservation.lines.length;
  return rows;
}

function joined<Entry>(chunks: readonly (readonly Entry[])[]): readonly Entry[] {
  return chunks.length === 1 ? (chunks[0] as readonly Entry[]) : chunks.flat();
}

function split<Result>(results: readonly Result[], chunks: readonly { length: number }[]) {
  let from = 0;
  return chunks.map(({ length }) => {
    from += length;
    return results.slice(from - length, from);
  });
}

function splitReply(reply: GateReply, chunks: readonly GateChunk[]): GateReply[] {
  if (reply.kind !== 'DECIDED') return chunks.map(() => reply);
  const { kind, epoch, currency } = reply;
  const answers = split(
    reply.answers,
    chunks.map(({ entries }) => entries),
  );
  return answers.map((part) => ({ kind, epoch, currency, answers: part }));
}
