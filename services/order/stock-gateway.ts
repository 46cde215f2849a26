import type {
  ReservationResult,
  StockRelease,
  StockReservation,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { StockServiceDefinition } from '../../gen/sluice/stock/v1/stock_service.ts';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { createGrpcClient } from '../runtime/grpc-client.ts';
import { encodeWhole } from '../runtime/grpc-messages.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import { askAgainWhileLocked } from './ask-again-while-locked.ts';

/** What stock answered for one order. */
export type ReservationOutcome = NonNullable<ReservationResult['outcome']>;

/** The order service's way to stock; reservations and releases travel in batches. */
export interface StockGateway {
  /**
   * @throws Refusal OVERLOADED or DEPENDENCY_DOWN if stock surely was not asked, OUTCOME_UNKNOWN if
   *   its answer was lost
   */
  reserve(reservation: StockReservation, deadline: Deadline): Promise<ReservationOutcome>;
  /** Gives back what an order holds that cannot exist. @throws Refusal if that is not known to be done */
  release(release: StockRelease, deadline: Deadline): Promise<void>;
  /** What time it is by the clocks that stock knows, in ms since 1970. @throws Refusal DEPENDENCY_DOWN */
  readTimeMs(deadline: Deadline): Promise<number>;
  /** Whether a connection is up. */
  connected(): boolean;
  close(): Promise<void>;
}

export interface StockGatewayOptions {
  readonly addresses: readonly string[];
  readonly log: Log;
  /** Batches under way at most. */
  readonly inFlightMax: number;
  readonly queueDepthMax: number;
  readonly metrics?: BatcherMetrics;
  readonly breakerState?: import('prom-client').Gauge<'name'>;
}

const entriesMax = 500;
/**
 * What waits for longer is refused, and the newest go first once a queue is older than this: in order
 * everybody would be late, and nothing is done for those who wait here.
 */
const ageMaxMs = 250;
const newestFirstAfterMs = 100;
/** Orders that make a second batch beside the first worth its calls, statements and commits. */
const besideStockMin = 128;
/** Below the server's message limit, with 20-line orders. */
const bytesMax = 1024 * 1024;
const callTable = {
  reserveStock: { deadlineMs: 3_000, retry: true, breaker: 'stock.reserve' },
  releaseStock: { deadlineMs: 3_000, retry: true, breaker: 'stock.release' },
  listSkus: { deadlineMs: 1_000, retry: true, readOnly: true, breaker: 'stock.time' },
} as const;

export function connectStock(options: StockGatewayOptions): StockGateway {
  const { addresses, log, inFlightMax, queueDepthMax, metrics, breakerState } = options;
  const stock = createGrpcClient(encodeWhole(StockServiceDefinition, ['reserveStock']), {
    addresses,
    callTable,
    log,
    ...(breakerState ? { breakerState } : {}),
  });
  const common = { entriesMax, bytesMax, queueDepthMax, ...(metrics ? { metrics } : {}) };

  const reservations = new Batcher<StockReservation, ReservationOutcome>({
    ...common,
    name: 'order_to_stock',
    inFlightMax,
    besideMin: besideStockMin,
    ageMaxMs,
    newestFirstAfterMs,
    sizeOf: ({ requestId, lines }) => 64 + requestId.length + lines.length * 16,
    async run(entries, { deadline }) {
      const info = failpoints.on ? { orderIds: entries.map(({ orderId }) => orderId) } : {};
      if (failpoints.on) await failpoints.hit('order.before_reserve', info);
      const request = { reservations: entries };
      const { results } = await stock.client.reserveStock(request, { deadline });
      if (failpoints.on) await failpoints.hit('order.after_reserve', info);
      return results.map(
        ({ outcome }) => outcome ?? { $case: 'unknown', value: { lockedSkuId: 0n } },
      );
    },
  });

  const releases = new Batcher<StockRelease, undefined>({
    ...common,
    name: 'order_to_stock_release',
    inFlightMax: 1,
    sizeOf: ({ requestId, skuIds }) => 32 + requestId.length + skuIds.length * 10,
    async run(entries, { deadline }) {
      const info = failpoints.on ? { orderIds: entries.map(({ orderId }) => orderId) } : {};
      if (failpoints.on) await failpoints.hit('order.before_release', info);
      const { lockedOrderIds } = await stock.client.releaseStock(
        { releases: entries },
        { deadline },
      );
      if (failpoints.on) await failpoints.hit('order.after_release', info);
      const locked = new Set(lockedOrderIds);
      return entries.map(({ orderId }) =>
        locked.has(orderId) ? new Refusal('OUTCOME_UNKNOWN', 'The stock is locked') : undefined,
      );
    },
  });

  return {
    reserve: (reservation, deadline) =>
      askAgainWhileLocked(() => reservations.add(reservation, deadline), deadline),
    release: (release, deadline) => releases.add(release, deadline),
    async readTimeMs(deadline) {
      const { serverTime } = await stock.client.listSkus(
        { pageSize: 1, pageToken: '' },
        { deadline },
      );
      if (serverTime === undefined) throw new Refusal('DEPENDENCY_DOWN', 'Stock told no time');
      return serverTime.getTime();
    },
    connected: () => stock.connected(),
    async close() {
      await Promise.all([reservations.close(), releases.close()]);
      stock.close();
    },
  };
}
