import { createChannel, createClientFactory, Metadata } from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import {
  type CreateOrderResult,
  OrderServiceDefinition,
} from '../../gen/sluice/order/v1/order_service.ts';
import { deadlineLeftHeader } from '../../services/runtime/grpc-deadline.ts';
import { fromClientError } from '../../services/runtime/refusal-status.ts';
import { reasonOf } from '../../services/runtime/refusals.ts';
import type { Arrival, Target } from './open-loop.ts';
import type { Recorder } from './recorder.ts';
import type { Sale } from './sale.ts';

const deadlineMs = 3_000;
/** Without a deadline of the server in between, a lost answer ends here. */
const giveUpMs = deadlineMs + 500;
/** Orders outstanding at most; one more is counted as not sent. */
const outstandingMax = 20_000;
/** An incomplete batch goes when its first order is this late. */
const batchAgeMaxMs = 10;

export interface GrpcTargetOptions {
  readonly address: string;
  readonly sale: Sale;
  readonly recorder: Recorder;
  /** Orders in one BatchCreateOrders; 1 calls CreateOrder. */
  readonly batchEntries: number;
}

/** Sends orders to the order service over gRPC, in batches or one by one. */
export function createGrpcTarget(options: GrpcTargetOptions): Target {
  const { recorder, sale, batchEntries } = options;
  // Two connections, as one client of a real deployment would have.
  const channels = [1, 2].map(() =>
    createChannel(options.address, undefined, { 'grpc.use_local_subchannel_pool': 1 }),
  );
  const clients = channels.map((channel) =>
    createClientFactory().use(errorDetailsClientMiddleware).create(OrderServiceDefinition, channel),
  );
  let calls = 0;
  let gathered: Arrival[] = [];

  const nextClient = () => {
    calls += 1;
    return clients[calls % clients.length] as (typeof clients)[number];
  };
  const callOptions = () => ({
    metadata: Metadata({
      'grpc-timeout': `${deadlineMs}m`,
      [deadlineLeftHeader]: String(deadlineMs),
    }),
    signal: AbortSignal.timeout(giveUpMs),
  });

  async function sendOne(arrival: Arrival): Promise<void> {
    try {
      const { order } = await nextClient().createOrder(
        sale.requestOf(arrival.number),
        callOptions(),
      );
      recorder.ok(arrival.number, order?.orderId ?? 0n, performance.now() - arrival.dueMs);
    } catch (error) {
      recorder.failed(
        arrival.number,
        fromClientError(error).reason,
        performance.now() - arrival.dueMs,
      );
    }
  }

  async function sendBatch(batch: readonly Arrival[]): Promise<void> {
    const requests = batch.map(({ number }) => sale.requestOf(number));
    let results: readonly CreateOrderResult[];
    try {
      ({ results } = await nextClient().batchCreateOrders({ requests }, callOptions()));
    } catch (error) {
      const { reason } = fromClientError(error);
      const nowMs = performance.now();
      for (const { number, dueMs } of batch) recorder.failed(number, reason, nowMs - dueMs);
      return;
    }
    const nowMs = performance.now();
    for (const [index, { number, dueMs }] of batch.entries()) {
      const answer = results[index]?.outcome;
      const latencyMs = nowMs - dueMs;
      if (answer?.$case === 'created') {
        recorder.ok(number, answer.value.order?.orderId ?? 0n, latencyMs);
      } else if (answer?.$case === 'refusal') {
        recorder.failed(number, reasonOf(answer.value.reason), latencyMs);
      } else recorder.failed(number, 'OUTCOME_UNKNOWN', latencyMs);
    }
  }

  function sendGathered(): void {
    const batch = gathered;
    gathered = [];
    void sendBatch(batch);
  }

  return {
    offer(arrival) {
      if (recorder.outstanding > outstandingMax) return false;
      if (batchEntries === 1) {
        void sendOne(arrival);
        return true;
      }
      gathered.push(arrival);
      if (gathered.length >= batchEntries) sendGathered();
      return true;
    },
    flush(nowMs) {
      const first = gathered[0];
      if (first && nowMs - first.dueMs >= batchAgeMaxMs) sendGathered();
    },
    async close() {
      for (const channel of channels) channel.close();
    },
  };
}
