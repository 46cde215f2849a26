import type { Gauge } from 'prom-client';
import { freePort } from '../../deploy/local/port.ts';
import {
  StockServiceDefinition,
  type StockServiceImplementation,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { createGrpcClient } from '../../services/runtime/grpc-client.ts';
import type { DeadlineContext } from '../../services/runtime/grpc-deadline.ts';
import { service, startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createLog } from '../../services/runtime/log.ts';

const log = createLog('test', 'silent');

type Options = Omit<Parameters<typeof startGrpcServer>[0], 'host' | 'port' | 'services' | 'log'>;

/** A copy of a small service over real gRPC, which can be stopped and started again on its port. */
export interface SmallCopy {
  readonly port: number;
  /** Order ids that it began to reserve, in their order. */
  readonly begun: bigint[];
  /** Calls that it began. */
  calls(): number;
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** @param reserve what it does for each call before it answers */
export async function smallCopy(
  reserve: (orderIds: readonly bigint[], signal: AbortSignal) => Promise<void>,
  options: Partial<Options> = {},
): Promise<SmallCopy> {
  // Not one of those that connections get theirs from, which it might not find free again.
  const port = await freePort();
  const begun: bigint[] = [];
  let calls = 0;
  const absent = async (): Promise<never> => {
    throw new Error('not asked for here');
  };
  const implementation: StockServiceImplementation<DeadlineContext> = {
    async reserveStock({ reservations }, { signal }) {
      const orderIds = reservations.map(({ orderId }) => orderId);
      begun.push(...orderIds);
      calls += 1;
      await reserve(orderIds, signal);
      return { results: [] };
    },
    releaseStock: absent,
    batchGetStock: absent,
    getSku: absent,
    listSkus: absent,
  };
  let running: Awaited<ReturnType<typeof startGrpcServer>> | undefined;
  return {
    port,
    begun,
    calls: () => calls,
    async start() {
      running = await startGrpcServer({
        host: '127.0.0.1',
        port,
        services: [service(StockServiceDefinition, implementation)],
        log,
        inFlightMax: 5_000,
        ...options,
      });
    },
    async stop() {
      await running?.stop();
      running = undefined;
    },
  };
}

/** A client of the copies as the services have it; `deadlineMs` is what a call may take. */
export function clientOf(
  copies: readonly { port: number }[],
  { deadlineMs = 20_000, breakerState }: { deadlineMs?: number; breakerState?: Gauge<'name'> } = {},
) {
  const { client, ...rest } = createGrpcClient(StockServiceDefinition, {
    addresses: copies.map(({ port }) => `127.0.0.1:${port}`),
    callTable: { reserveStock: { deadlineMs, breaker: 'stock.reserve' } },
    log,
    ...(breakerState ? { breakerState } : {}),
  });
  return {
    ...rest,
    /** Reserves for one order. */
    async reserve(orderId: bigint): Promise<void> {
      const requestId = String(orderId);
      const fingerprint = Buffer.alloc(16);
      const reservation = { orderId, userId: 1n, requestId, fingerprint, lines: [] };
      await client.reserveStock({ reservations: [reservation] });
    },
  };
}
