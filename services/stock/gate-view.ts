import type { ChainableCommander } from 'ioredis';
import type { GateConnection } from './gate-connection.ts';
import { gateFailure } from './gate-failure.ts';
import { skuKeys } from './redis-keys.ts';

/** What Redis holds of one SKU at one moment. */
export interface GateView {
  /** Installed, open, and on the server that answered. */
  readonly loaded: boolean;
  readonly state: 'open' | 'closing' | 'missing';
  /** Whether it was installed on the server that answered; false also for a missing one. */
  readonly onThisServer: boolean;
  /** Units that can be admitted; undefined without `avail`. May be negative for a moment. */
  readonly available: number | undefined;
  readonly paused: boolean;
  readonly epoch: bigint;
  readonly settingsVersion: bigint;
  /** When a closing was last heard of, Redis time in ms. */
  readonly closingMs: number | undefined;
  readonly pendingOrders: number;
  /** When the oldest of them was admitted, in ms by the time that sales go by. */
  readonly oldestPendingMs: number | undefined;
}

/** A pending entry as the gate keeps it. */
export interface PendingEntry {
  readonly orderId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
  readonly units: number;
}

/** SKUs in one pipeline at most; a longer one would keep other calls waiting. */
const pipelineSkusMax = 500;

/** Reads the gates of some SKUs, in their order. @throws Refusal DEPENDENCY_DOWN without Redis */
export async function readGates(
  connection: GateConnection,
  skuIds: readonly bigint[],
): Promise<GateView[]> {
  const views: GateView[] = [];
  for (let from = 0; from < skuIds.length; from += pipelineSkusMax) {
    views.push(...(await readChunk(connection, skuIds.slice(from, from + pipelineSkusMax))));
  }
  return views;
}

async function readChunk(
  connection: GateConnection,
  skuIds: readonly bigint[],
): Promise<GateView[]> {
  const pipeline = connection.redis.pipeline();
  pipeline.info('server').info('replication');
  for (const skuId of skuIds) {
    const { avail, meta, buyers, pending, entries } = skuKeys(skuId);
    pipeline.get(avail).zcard(pending).zrange(pending, '0', '0', 'WITHSCORES');
    pipeline
      .hmget(meta, ...metaFields)
      .hexists(buyers, '0')
      .hlen(entries);
  }
  const replies = await answersOf(pipeline);
  const runId = /run_id:(\w+)/.exec(String(replies[0]))?.[1];
  const replid = /master_replid:(\w+)/.exec(String(replies[1]))?.[1];
  return skuIds.map((_, index) => {
    const ofSku = replies.slice(2 + index * commandsPerSku, 2 + (index + 1) * commandsPerSku);
    if (ofSku.includes(wrongType)) return missingGate;
    const [available, pendingOrders, oldest, meta, knowsBuyers] = ofSku as [
      string | null,
      number,
      string[],
      (string | null)[],
      number,
    ];
    const view = viewOf(available, pendingOrders, meta, { runId, replid });
    const loaded = view.loaded && knowsBuyers === 1;
    return { ...view, loaded, ...(oldest[1] ? { oldestPendingMs: Number(oldest[1]) } : {}) };
  });
}

const commandsPerSku = 6;

const metaFields = [
  ...['state', 'run_id', 'replid', 'epoch'],
  ...['settings_version', 'paused', 'closing_ms'],
];

/** A gate with a key of another type than it has to be: no script can use it, and it is installed anew. */
const missingGate: GateView = {
  loaded: false,
  state: 'missing',
  onThisServer: false,
  available: undefined,
  paused: false,
  epoch: -1n,
  settingsVersion: -1n,
  closingMs: undefined,
  pendingOrders: 0,
  oldestPendingMs: undefined,
};

function viewOf(
  available: string | null,
  pendingOrders: number,
  [state, runId, replid, epoch, settingsVersion, paused, closingMs]: (string | null | undefined)[],
  server: { runId: string | undefined; replid: string | undefined },
): GateView {
  // A figure that is none is as good as missing: the scripts take it so too.
  const units =
    available !== null && /^-?\d{1,15}$/.test(available) ? Number(available) : undefined;
  const onThisServer = Boolean(runId) && runId === server.runId && replid === server.replid;
  return {
    loaded: onThisServer && state === 'open' && units !== undefined,
    state: state === 'open' || state === 'closing' ? state : 'missing',
    onThisServer,
    available: units,
    paused: paused === '1',
    epoch: BigInt(epoch ?? -1),
    settingsVersion: BigInt(settingsVersion ?? -1),
    closingMs: closingMs ? Number(closingMs) : undefined,
    pendingOrders,
    oldestPendingMs: undefined,
  };
}

/** Orders that have been pending for at least `ageMs`, the oldest `max` of each SKU. */
export async function readPending(
  connection: GateConnection,
  skuIds: readonly bigint[],
  { ageMs, max }: { ageMs: number; max: number },
): Promise<Map<bigint, PendingEntry[]>> {
  const found = new Map<bigint, PendingEntry[]>();
  const untilMs = Math.floor(connection.saleNowMs() - ageMs);
  for (let from = 0; from < skuIds.length; from += pipelineSkusMax) {
    const chunk = skuIds.slice(from, from + pipelineSkusMax);
    const pipeline = connection.redis.pipeline();
    for (const skuId of chunk) {
      pipeline.zrangebyscore(skuKeys(skuId).pending, '-inf', untilMs, 'LIMIT', 0, max);
    }
    const replies = (await answersOf(pipeline)) as (string[] | typeof wrongType)[];
    for (const [index, orders] of replies.entries()) {
      if (orders === wrongType || orders.length === 0) continue;
      const skuId = chunk[index] as bigint;
      found.set(skuId, await readEntries(connection, skuId, orders));
    }
  }
  return found;
}

async function readEntries(
  connection: GateConnection,
  skuId: bigint,
  orders: readonly string[],
): Promise<PendingEntry[]> {
  const pipeline = connection.redis.pipeline().hmget(skuKeys(skuId).entries, ...orders);
  const [reply] = (await answersOf(pipeline)) as [(string | null)[] | typeof wrongType];
  const entries = reply === wrongType ? [] : reply;
  return orders.map((order, index) => {
    // Both are written and removed together; without its entry an order can be removed, not credited.
    const [, units = '0', user = '0', requestId = ''] =
      /^(\d+):(\d+):(.*)$/.exec(entries[index] ?? '') ?? [];
    return { orderId: BigInt(order), userId: BigInt(user), requestId, units: Number(units) };
  });
}

/** Stands for the reply to a command whose key is of another type; it says nothing about other keys. */
const wrongType = Symbol('wrong type');

/** @throws Refusal if Redis did not answer, or refused a command for another reason than its key's type */
async function answersOf(pipeline: ChainableCommander): Promise<unknown[]> {
  let replies: [Error | null, unknown][] | null;
  try {
    replies = await pipeline.exec();
  } catch (error) {
    throw gateFailure(error);
  }
  return (replies ?? []).map(([error, reply]) => {
    if (error?.message.startsWith('WRONGTYPE')) return wrongType;
    if (error) throw gateFailure(error);
    return reply;
  });
}
