import type { CreateOrderRequest } from '../../gen/sluice/order/v1/order_service.ts';
import { type Admission, weightOf } from '../runtime/admission.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import { type OrderMetrics, statusOfRefusal } from './order-metrics.ts';
import type { PlacedOrder } from './place-order.ts';
import { refusalOf } from './refusal-of.ts';
import type { TakeOrder } from './take-order.ts';

export interface OrderDoorOptions {
  readonly takeOrder: TakeOrder;
  readonly admission: Admission;
  readonly metrics: Pick<OrderMetrics, 'created' | 'refusedAtDoor'>;
  readonly log: Log;
}

/**
 * Lets requests for orders in and carries them out; a refusal is an answer, because a batch carries it as
 * one. Ordinary ones are let in together, or all refused at once; large baskets each by itself.
 *
 * @throws Refusal OVERLOADED if the ordinary ones are refused
 */
export type PassOrderDoor = (
  requests: readonly CreateOrderRequest[],
  deadline: Deadline,
) => Promise<(PlacedOrder | Refusal)[]>;

export function createOrderDoor(options: OrderDoorOptions): PassOrderDoor {
  const { admission, metrics } = options;

  function enter(orders: number): void {
    if (orders === 0) return;
    try {
      admission.enter(orders);
    } catch (error) {
      metrics.refusedAtDoor.inc(orders);
      throw error;
    }
  }

  async function createOrdinary(
    request: CreateOrderRequest,
    deadline: Deadline,
  ): Promise<PlacedOrder | Refusal> {
    const { outcome, status, tookMs } = await create(options, request, deadline);
    // A refusal of the business is quick, whatever the load.
    if (status === 'rejected') admission.leave(undefined);
    else if (status === 'success') admission.leave(tookMs);
    else admission.lose();
    return outcome;
  }

  async function createLarge(
    request: CreateOrderRequest,
    weight: number,
    deadline: Deadline,
  ): Promise<PlacedOrder | Refusal> {
    try {
      admission.enterLarge(weight);
    } catch (refusal) {
      metrics.refusedAtDoor.inc();
      return refusal as Refusal;
    }
    const { outcome } = await create(options, request, deadline);
    admission.leaveLarge(weight);
    return outcome;
  }

  return async (requests, deadline) => {
    const weights = requests.map(({ lines }) => weightOf(lines.length));
    enter(weights.filter((weight) => weight === 1).length);
    const outcomes = requests.map((request, at) => {
      const weight = weights[at] as number;
      return weight === 1
        ? createOrdinary(request, deadline)
        : createLarge(request, weight, deadline);
    });
    return await Promise.all(outcomes);
  };
}

/** Never throws. */
async function create(
  { takeOrder, metrics, log }: OrderDoorOptions,
  request: CreateOrderRequest,
  deadline: Deadline,
) {
  const startedMs = performance.now();
  let outcome: PlacedOrder | Refusal;
  try {
    outcome = await takeOrder(request, deadline);
  } catch (error) {
    outcome = refusalOf(error, 'placing an order', log);
  }
  const tookMs = performance.now() - startedMs;
  const status = outcome instanceof Refusal ? statusOfRefusal(outcome.reason) : 'success';
  metrics.created(status, tookMs / 1_000);
  return { outcome, status, tookMs };
}
