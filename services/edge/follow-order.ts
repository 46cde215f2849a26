import { setTimeout as sleep } from 'node:timers/promises';
import { type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { isBusinessRefusal } from '../runtime/refusals.ts';

/** Losses in a row after which the client is left to come again; with the pauses some 30 s. */
const lossesMax = 10;
const pauseMs = 500;
const pauseMsMax = 5_000;

/** No state comes after these. */
const finalStates: readonly OrderStatus[] = [
  OrderStatus.ORDER_STATUS_CANCELLED,
  OrderStatus.ORDER_STATUS_REFUNDED,
  OrderStatus.ORDER_STATUS_REJECTED,
];

/** Whether the order stays as it is. */
export function isFinal(order: Order): boolean {
  return finalStates.includes(order.status);
}

/**
 * The states of an order, each version once, until its final one. The order service ends its streams
 * when it stops, and a connection is renewed every five minutes; what is lost so is watched again, and
 * the pauses are random, so that thousands of watchers do not come back at once. Ends quietly when
 * the signal is aborted, and before the final state when the service stays away for long.
 *
 * @param watch opens one stream of the order's states
 * @throws Refusal if the order cannot be watched to begin with
 */
export async function* followOrder(
  watch: (signal: AbortSignal) => AsyncIterable<Order>,
  signal: AbortSignal,
): AsyncGenerator<Order, void> {
  let version = 0;
  for (let losses = 0; losses < lossesMax && !signal.aborted; losses += 1) {
    try {
      for await (const order of watch(signal)) {
        losses = 0;
        // A copy of the service that was asked next may be behind.
        if (order.version <= version) continue;
        version = order.version;
        yield order;
        if (isFinal(order)) return;
      }
    } catch (error) {
      if (version === 0) throw error;
      if (isBusinessRefusal(error)) return;
    }
    const ms = Math.min(pauseMs * 2 ** losses, pauseMsMax) * (0.2 + 1.6 * Math.random());
    // The pause ends early only because the client is gone.
    await sleep(ms, undefined, { signal }).catch(() => {});
  }
}
