import { RefusalReason } from '../../gen/sluice/stock/v1/refusal.ts';
import {
  type ReservationResult,
  type StockReservation,
  StockServiceDefinition,
  type StockServiceImplementation,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import type { DeadlineContext } from '../../services/runtime/grpc-deadline.ts';
import { service, startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createLog } from '../../services/runtime/log.ts';

type Outcome = NonNullable<ReservationResult['outcome']>;

/** Stock's contract, held in memory behind a real gRPC server: tests of order script its answers. */
export interface FakeStock {
  readonly address: string;
  /** Order ids that hold units now. */
  readonly holds: Map<bigint, StockReservation>;
  /** The order id that each request got first, by `user/request id`. */
  readonly records: Map<string, bigint>;
  /** Released order ids, in order. */
  readonly released: bigint[];
  /** Answers instead of the default, where it returns an outcome. */
  script: (reservation: StockReservation) => Outcome | undefined | Promise<Outcome | undefined>;
  stop(): Promise<void>;
}

/** Every SKU costs 100 × its id in EUR cents and never sells out, unless the script says so. */
export async function startFakeStock(port = 0): Promise<FakeStock> {
  const holds = new Map<bigint, StockReservation>();
  const records = new Map<string, bigint>();
  const released: bigint[] = [];
  const dead = new Set<bigint>();

  function decide(reservation: StockReservation): Outcome {
    const { orderId, userId, requestId, fingerprint } = reservation;
    const key = `${userId}/${requestId}`;
    const first = records.get(key);
    if (dead.has(orderId)) return { $case: 'dead', value: {} };
    const held = holds.get(orderId);
    if (held && (held.userId !== userId || held.requestId !== requestId)) {
      return { $case: 'idTaken', value: {} };
    }
    if (first !== undefined) {
      const record = holds.get(first);
      if (record && !record.fingerprint.equals(fingerprint)) return keyReused;
      if (first !== orderId) return { $case: 'adopted', value: { orderId: first } };
    }
    records.set(key, orderId);
    holds.set(orderId, reservation);
    return reservedOutcome(reservation);
  }

  const stock: FakeStock = {
    address: '',
    holds,
    records,
    released,
    script: () => undefined,
    stop: async () => undefined,
  };

  const implementation: Partial<StockServiceImplementation<DeadlineContext>> = {
    async reserveStock({ reservations }) {
      const outcomes = reservations.map((one) => stock.script(one) ?? decide(one));
      const settled = await Promise.all(outcomes);
      return {
        results: settled.map((outcome, index) => ({
          outcome: outcome ?? decide(reservations[index] as StockReservation),
        })),
      };
    },
    async releaseStock({ releases }) {
      for (const { orderId, userId, requestId } of releases) {
        released.push(orderId);
        holds.delete(orderId);
        dead.add(orderId);
        const key = `${userId}/${requestId}`;
        if (records.get(key) === orderId) records.delete(key);
      }
      return { releasedUnits: releases.map(() => 1n) };
    },
  };
  const unimplemented = async (): Promise<never> => {
    throw new Error('not part of the fake');
  };
  const full = {
    batchGetStock: unimplemented,
    getSku: unimplemented,
    listSkus: unimplemented,
    ...implementation,
  } as StockServiceImplementation<DeadlineContext>;
  const server = await startGrpcServer({
    host: '127.0.0.1',
    port,
    services: [service(StockServiceDefinition, full)],
    log: createLog('fake-stock', 'silent'),
    inFlightMax: 1_000,
  });
  return Object.assign(stock, { address: `127.0.0.1:${server.port}`, stop: () => server.stop() });
}

/** Every line held, at the fake's price. */
export function reservedOutcome({ lines }: StockReservation): Outcome {
  return {
    $case: 'reserved',
    value: {
      lines: lines.map(({ skuId, quantity }) => ({
        skuId,
        quantity,
        unitPrice: { currencyCode: 'EUR', minorUnits: skuId * 100n },
      })),
    },
  };
}

/** A refusal as stock sends it. */
export function refusedOutcome(
  reason: RefusalReason,
  { lookUp = false, skuId = 0n } = {},
): Outcome {
  return { $case: 'refused', value: { reason, skuId, lookUp, message: '', retryAfterMs: 0 } };
}

const keyReused = refusedOutcome(RefusalReason.REFUSAL_REASON_IDEMPOTENCY_KEY_REUSED);
