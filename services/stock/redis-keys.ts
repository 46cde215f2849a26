/**
 * The only builder of Redis keys. All keys of one SKU share the hash tag `{sku:<id>}`, so that they
 * live on one node of a Redis Cluster and one script may use them together.
 *
 * | key | type | meaning |
 * | --- | --- | --- |
 * | `{sku:9}:avail` | string | units that the gate can still admit; absent means not loaded, never zero |
 * | `{sku:9}:meta` | hash | state, settings, epoch, the server it was installed on, install token |
 * | `{sku:9}:buyers` | hash | user → units held or owned; 0 for one who gave all back; field 0, no user, is always there |
 * | `{sku:9}:pending` | zset | order → ms of its admission by the sale's time, until the ledger has it |
 * | `{sku:9}:entries` | hash | order → `<units>:<user>:<request>`, as long as it is pending |
 * | `{sku:9}:req:<user>:<request>` | string | `<order>:<fingerprint>`, expires after 24 h |
 */
export interface SkuKeys {
  readonly avail: string;
  readonly meta: string;
  readonly buyers: string;
  readonly pending: string;
  readonly entries: string;
  /** Prefix of the SKU's request records. */
  readonly requests: string;
}

/** Key sets kept; they are asked for in every batch. */
const keptMax = 10_000;
const kept = new Map<bigint, SkuKeys>();

/** The keys of one SKU. */
export function skuKeys(skuId: bigint): SkuKeys {
  let keys = kept.get(skuId);
  if (keys === undefined) {
    const tag = `{sku:${skuId}}`;
    keys = {
      avail: `${tag}:avail`,
      meta: `${tag}:meta`,
      buyers: `${tag}:buyers`,
      pending: `${tag}:pending`,
      entries: `${tag}:entries`,
      requests: `${tag}:req:`,
    };
    if (kept.size >= keptMax) kept.clear();
    kept.set(skuId, keys);
  }
  return keys;
}

/** The record of one request at one SKU. */
export function requestRecordKey(keys: SkuKeys, userId: bigint, requestId: string): string {
  return `${keys.requests}${userId}:${requestId}`;
}
