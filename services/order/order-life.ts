import type { Order } from '../../gen/sluice/order/v1/order.ts';
import type { Lifecycle } from '../runtime/lifecycle.ts';
import type { Log } from '../runtime/log.ts';
import { type BeginPayment, createBeginPayment } from './begin-payment.ts';
import { type CancelOrder, createCancelOrder } from './cancel-order.ts';
import { createChangeOrder } from './change-order.ts';
import type { OrderConfig } from './config.ts';
import { startExpireBegunOrders } from './expire-begun-orders.ts';
import { startExpireOrders } from './expire-orders.ts';
import type { OrderMetrics } from './order-metrics.ts';
import type { OrderReader } from './order-reader.ts';
import type { OrderShards } from './order-shards.ts';
import { connectPayment, type PaymentGateway } from './payment-gateway.ts';
import { createRecordPayment, type RecordPayment } from './record-payment.ts';
import { createRecordRefund, type RecordRefund } from './record-refund.ts';
import { createWatchOrders, type WatchOrders } from './watch-orders.ts';

export interface OrderLifeOptions {
  readonly config: Pick<OrderConfig, 'expiry' | 'paymentAddresses' | 'watchersMax'>;
  readonly shards: OrderShards;
  readonly reader: OrderReader;
  /** Instead of a connection to the configured one; for tests. */
  readonly payment: PaymentGateway | undefined;
  readonly metrics: OrderMetrics;
  readonly queueDepthMax: number;
  readonly wakeRelay: (database: number) => void;
  readonly log: Log;
}

/** What happens to orders after their creation. */
export interface OrderLife {
  readonly cancelOrder: CancelOrder;
  readonly beginPayment: BeginPayment;
  readonly recordPayment: RecordPayment;
  readonly recordRefund: RecordRefund;
  /** Stopped by the caller, before its server: a server waits for its streams. */
  readonly watches: WatchOrders;
}

/** Starts everything that changes orders after their creation, and what shows the changes. */
export function startOrderLife(options: OrderLifeOptions, lifecycle: Lifecycle): OrderLife {
  const { config, shards, reader, metrics, queueDepthMax, wakeRelay, log } = options;
  const watches = createWatchOrders({
    shards,
    reader,
    log,
    watchersMax: config.watchersMax,
    onCount: (watchers) => metrics.watchers.set(watchers),
  });
  const onCommit = (database: number, changed: readonly Order[]): void => {
    wakeRelay(database);
    watches.changed(changed);
  };
  const common = { shards, log, metrics, onCommit };
  const changes = createChangeOrder({ ...common, queueDepthMax, metrics: metrics.hops });
  lifecycle.add('changes', () => changes.close());
  const { changeOrder } = changes;
  const { breakerState } = metrics;
  const payment =
    options.payment ?? connectPayment({ addresses: config.paymentAddresses, log, breakerState });
  lifecycle.add('payment gateway', () => payment.close());

  const pace = config.expiry;
  const begun = startExpireBegunOrders({ ...common, pace, payment, changeOrder });
  lifecycle.add('expiry of begun orders', () => begun.stop());
  for (const database of shards.databases) {
    const loop = startExpireOrders({ ...common, pace, onBegun: begun.wake }, database);
    lifecycle.add(`expiry ${database.index}`, () => loop.stop());
  }

  return {
    cancelOrder: createCancelOrder({ changeOrder, payment }),
    beginPayment: createBeginPayment(changeOrder),
    recordPayment: createRecordPayment(changeOrder),
    recordRefund: createRecordRefund(changeOrder),
    watches,
  };
}
