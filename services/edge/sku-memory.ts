import { ReadMemory } from './read-memory.ts';
import type { StockGateway } from './stock-gateway.ts';
import { skuJson, skuPageJson } from './stock-json.ts';

/** SKUs remembered at most, some kilobytes each. */
const skusMax = 10_000;
/** Pages of the list remembered at most, some dozens of kilobytes each. */
const pagesMax = 500;
/** What may wait to be read at most: about what stock answers in a second. */
const waitingMax = 2_000;

/** What is on sale, as JSON, from memory. */
export interface SkuMemory {
  /** One SKU. @throws Refusal NOT_FOUND, OVERLOADED or what stock refused with */
  sku(skuId: bigint): Promise<string>;
  /** One page of the list. @param pageSize 0 for the default */
  page(pageSize: number, pageToken: string): Promise<string>;
}

export function createSkuMemory(stock: Pick<StockGateway, 'sku' | 'skus'>): SkuMemory {
  const skus = new ReadMemory({
    entriesMax: skusMax,
    waitingMax,
    fetch: async (skuId) => skuJson(await stock.sku(BigInt(skuId))),
  });
  const pages = new ReadMemory({
    entriesMax: pagesMax,
    waitingMax,
    fetch: async (key) => {
      const space = key.indexOf(' ');
      const page = await stock.skus(Number(key.slice(0, space)), key.slice(space + 1));
      return skuPageJson(page);
    },
  });
  return {
    sku: (skuId) => skus.read(String(skuId)),
    page: (pageSize, pageToken) => pages.read(`${pageSize} ${pageToken}`),
  };
}
