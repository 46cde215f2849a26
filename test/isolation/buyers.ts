import type { OrderServiceClient } from '../../gen/sluice/order/v1/order_service.ts';
import { outcome, outcomeOf } from '../bench/recorder.ts';
import { attempt } from '../support/workload.ts';
import type { Attempt, Group } from './harness.ts';

/** What a buyer in front of the edge waits at most. */
const buyerBudgetMs = 2_000;

export interface BuyersOptions {
  /** Names the group in its request ids. */
  readonly label: string;
  readonly perSecond: number;
  readonly skuIds: readonly bigint[];
  /** SKUs of which each order has one unit besides. */
  readonly besideSkuIds?: readonly bigint[];
  /** Users are numbered from here; each attempt is another user's, one after the other up to `users`. */
  readonly firstUserId: bigint;
  readonly users?: number;
  readonly budgetMs?: number;
  /** The client of an attempt; several copies take turns. */
  readonly client: (number: number) => OrderServiceClient;
}

/** Buyers of one unit each, of the SKUs in turn; each attempt has a request id of its own. */
export function buyers(options: BuyersOptions): Group {
  const { label, perSecond, skuIds, firstUserId, users = 100_000, client } = options;
  const beside = options.besideSkuIds ?? [];
  return {
    perSecond,
    async send(number) {
      const click = {
        userId: firstUserId + BigInt(number % users),
        requestId: `${label}-${number}`,
        lines: [skuIds[number % skuIds.length] as bigint, ...beside].map((skuId) => {
          return { skuId, quantity: 1 };
        }),
        outcomes: [],
      };
      const answer = await attempt(client(number), click, options.budgetMs ?? buyerBudgetMs);
      return answer.kind === 'ok' ? { outcome: 'made' } : attemptOf(answer.reason);
    },
  };
}

/** How an answer other than an order counts, by its reason. */
export function attemptOf(reason: string): Attempt {
  const kind = outcomeOf(reason);
  if (kind === outcome.refused) return { outcome: 'refused', reason };
  return { outcome: kind === outcome.unserved ? 'unserved' : 'unknown', reason };
}
