import { createChannel, createClient, Metadata } from 'nice-grpc';
import { ClientError, Status } from 'nice-grpc-common';
import {
  type CreateSkuRequest,
  StockAdminServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import { StockServiceDefinition } from '../../gen/sluice/stock/v1/stock_service.ts';
import { Failure, messageOf } from './failure.ts';

const callDeadlineMs = 10_000;
const dayMs = 24 * 60 * 60 * 1_000;

export type DemoSaleOptions = {
  /** host:port of the stock service. */
  stockAddress: string;
  /** A token with the role admin. */
  adminToken: string;
  now?: Date;
};

/**
 * Puts the demo sale on the shelf and answers how many SKUs were new. SKUs that exist stay as they are, whatever was
 * sold or changed since: the sale that "opens tomorrow" opens a day after the first load, not a day after each.
 */
export async function loadDemoSale(options: DemoSaleOptions): Promise<number> {
  const { stockAddress, adminToken, now = new Date() } = options;
  const channel = createChannel(stockAddress);
  try {
    const stock = createClient(StockServiceDefinition, channel);
    const admin = createClient(StockAdminServiceDefinition, channel);
    const metadata = Metadata({ authorization: `Bearer ${adminToken}` });
    let created = 0;
    for (const sku of demoSkus(now)) {
      const bound = () => AbortSignal.timeout(callDeadlineMs);
      const exists = await isFound(
        stock.getSku({ skuId: sku.skuId }, { metadata, signal: bound() }),
      );
      if (exists) continue;
      await admin.createSku(sku, { metadata, signal: bound() });
      created += 1;
    }
    return created;
  } catch (error) {
    throw new Failure(`The demo sale could not be loaded: ${messageOf(error)}.`, [], error);
  } finally {
    channel.close();
  }
}

function demoSkus(now: Date): CreateSkuRequest[] {
  const sku = (
    skuId: bigint,
    title: string,
    price: [currencyCode: string, minorUnits: bigint],
    supplied: bigint,
    more: Partial<CreateSkuRequest> = {},
  ): CreateSkuRequest => ({
    skuId,
    title,
    unitPrice: { currencyCode: price[0], minorUnits: price[1] },
    supplied,
    openTime: undefined,
    closeTime: undefined,
    limitPerUser: 0,
    paused: false,
    ...more,
  });
  return [
    sku(1n, 'Concert ticket, standing', ['USD', 7_900n], 5_000n),
    sku(2n, 'Concert ticket, front row (two per person)', ['USD', 24_900n], 100n, {
      limitPerUser: 2,
    }),
    sku(3n, 'Tour T-shirt', ['USD', 2_500n], 20_000n),
    sku(4n, 'Signed vinyl record (one per person)', ['USD', 4_950n], 50n, { limitPerUser: 1 }),
    sku(5n, 'Concert ticket, second night (opens a day later)', ['USD', 7_900n], 5_000n, {
      openTime: new Date(now.getTime() + dayMs),
    }),
  ];
}

/** False when the call says NOT_FOUND, true when it answers; anything else is thrown. */
async function isFound(call: Promise<unknown>): Promise<boolean> {
  try {
    await call;
    return true;
  } catch (error) {
    if (error instanceof ClientError && error.code === Status.NOT_FOUND) return false;
    throw error;
  }
}
