import { createChannel, createClientFactory } from 'nice-grpc';
import { OrderServiceDefinition } from '../../gen/sluice/order/v1/order_service.ts';
import type { Stack } from './options.ts';
import type { Sale } from './sale.ts';

const batchEntries = 200;

/** An order that was made before the measuring. */
export interface MadeOrder {
  readonly orderId: bigint;
  readonly userId: bigint;
}

/** Makes so many orders, a batch after the other. @throws Error if one of them is refused */
export async function makeOrders(stack: Stack, sale: Sale, count: number): Promise<MadeOrder[]> {
  const channel = createChannel(stack.orderAddress);
  const client = createClientFactory().create(OrderServiceDefinition, channel);
  try {
    const made: MadeOrder[] = [];
    while (made.length < count) {
      const from = made.length;
      const length = Math.min(batchEntries, count - from);
      const requests = Array.from({ length }, (_, index) => sale.requestOf(from + index));
      const { results } = await client.batchCreateOrders({ requests });
      for (const [index, { outcome }] of results.entries()) {
        if (outcome?.$case !== 'created' || !outcome.value.order) {
          throw new Error(`order ${from + index} was not made: ${JSON.stringify(outcome?.value)}`);
        }
        const { orderId, userId } = outcome.value.order;
        made.push({ orderId, userId });
      }
    }
    return made;
  } finally {
    channel.close();
  }
}
