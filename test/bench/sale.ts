import { randomInt } from 'node:crypto';
import { createChannel, createClientFactory, Metadata } from 'nice-grpc';
import type { CreateOrderRequest } from '../../gen/sluice/order/v1/order_service.ts';
import { StockAdminServiceDefinition } from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import type { Stack } from './options.ts';

/** More than can be sold in any run. */
const plentyUnits = 1_000_000_000;

/** SKUs, buyers and requests of one run, apart from those of every other run. */
export interface Sale {
  readonly skuIds: readonly bigint[];
  readonly firstUserId: bigint;
  readonly lastUserId: bigint;
  readonly requestPrefix: string;
  /** The order with this number. The same number is always the same order. */
  requestOf(number: number): CreateOrderRequest;
  /** The buyer of the order with this number, counted from 0. */
  userIndexOf(number: number): number;
}

/** Creates SKUs of its own through the operators' service. */
export async function openSale(
  stack: Stack,
  { skus, users, units = plentyUnits }: { skus: number; users: number; units?: number },
): Promise<Sale> {
  const run = randomInt(1, 2 ** 31);
  const firstSkuId = 1_000_000_000_000n + BigInt(run) * 1_000n;
  const skuIds = Array.from({ length: skus }, (_, index) => firstSkuId + BigInt(index));
  await createSkus(stack, skuIds, units);
  const firstUserId = 1_000_000_000_000_000n + BigInt(run) * 1_000_000n;
  const requestPrefix = `bench-${run}-`;
  return {
    skuIds,
    firstUserId,
    lastUserId: firstUserId + BigInt(users - 1),
    requestPrefix,
    userIndexOf: (number) => number % users,
    requestOf: (number) => ({
      userId: firstUserId + BigInt(number % users),
      requestId: `${requestPrefix}${number}`,
      lines: [{ skuId: skuIds[scatter(number) % skus] as bigint, quantity: 1 }],
    }),
  };
}

/** Spreads neighbours, so that SKUs and buyers do not go round in step. */
function scatter(number: number): number {
  return Math.imul(number, 0x9e3779b1) >>> 8;
}

async function createSkus(stack: Stack, skuIds: readonly bigint[], units: number): Promise<void> {
  const { token } = createTokens({ secret: stack.tokenSecret }).sign({
    userId: 1n,
    role: 'admin',
    ttlSeconds: 600,
  });
  const channel = createChannel(stack.stockAddress);
  const admin = createClientFactory().create(StockAdminServiceDefinition, channel);
  const metadata = Metadata({ authorization: `Bearer ${token}` });
  try {
    for (const skuId of skuIds) {
      await admin.createSku(
        {
          skuId,
          title: `Bench ${skuId}`,
          unitPrice: { currencyCode: 'USD', minorUnits: 1_999n },
          supplied: BigInt(units),
        },
        { metadata },
      );
    }
  } finally {
    channel.close();
  }
}
