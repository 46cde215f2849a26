import type { Order } from '../../gen/sluice/order/v1/order.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { Refusal } from '../runtime/refusals.ts';
import { findOrder, type OrderName } from './find-order.ts';
import { isFinal } from './order.ts';
import type { OrderReader } from './order-reader.ts';
import type { OrderShards } from './order-shards.ts';
import { readNewerOrders } from './read-newer-orders.ts';

/**
 * The order now, and after each change of its state until a final one. A reader that is slower than
 * the changes is given the newest state only. Ends quietly when `signal` aborts.
 *
 * @throws Refusal NOT_FOUND, DEPENDENCY_DOWN, OVERLOADED (too many watchers, or the process stops)
 */
export type WatchOrder = (
  name: OrderName,
  deadline: Deadline,
  signal: AbortSignal,
) => AsyncGenerator<Order>;

export interface WatchOrders {
  readonly watchOrder: WatchOrder;
  /** Shows watchers what this process has just committed, without a read. */
  changed(orders: readonly Order[]): void;
  /** Ends every watch. */
  stop(): Promise<void>;
}

export interface WatchOrdersOptions {
  readonly shards: OrderShards;
  readonly reader: OrderReader;
  readonly log: Log;
  /** Watchers at once; one more is refused as OVERLOADED. */
  readonly watchersMax: number;
  /** Told the number of watchers when it changes. */
  readonly onCount?: (watchers: number) => void;
}

/** How often the versions of the watched orders are read, for all watchers together. */
const pollEveryMs = 250;
const pollDeadlineMs = 2_000;

interface Watcher {
  readonly orderId: bigint;
  /** The newest state; what was sent of it is `sentVersion`. */
  newest: Order | undefined;
  sentVersion: number;
  wake: () => void;
}

/** One poller for all watchers of a process; it rests while there are none. */
export function createWatchOrders(options: WatchOrdersOptions): WatchOrders {
  const { reader, watchersMax, onCount } = options;
  const watchers = new Map<bigint, Set<Watcher>>();
  let count = 0;
  let stopped = false;

  function show(order: Order): void {
    for (const watcher of watchers.get(order.orderId) ?? []) showTo(watcher, order);
  }

  function add(orderId: bigint): Watcher {
    const watcher: Watcher = { orderId, newest: undefined, sentVersion: 0, wake: () => undefined };
    const ofOrder = watchers.get(orderId);
    if (ofOrder) ofOrder.add(watcher);
    else watchers.set(orderId, new Set([watcher]));
    count += 1;
    onCount?.(count);
    return watcher;
  }

  function remove(watcher: Watcher): void {
    const ofOrder = watchers.get(watcher.orderId);
    ofOrder?.delete(watcher);
    if (ofOrder?.size === 0) watchers.delete(watcher.orderId);
    count -= 1;
    onCount?.(count);
  }

  const poller = startPoller(options, watchers, show);

  async function* watchOrder(
    name: OrderName,
    deadline: Deadline,
    signal: AbortSignal,
  ): AsyncGenerator<Order> {
    if (stopped) throw stopping();
    if (count >= watchersMax) throw new Refusal('OVERLOADED', 'Too many orders are watched');
    // Registered before the read, so that no change falls between the two.
    const watcher = add(name.orderId);
    const onAbort = (): void => watcher.wake();
    signal.addEventListener('abort', onAbort);
    try {
      showTo(watcher, (await findOrder(reader, name, deadline)).order);
      while (!signal.aborted) {
        if (stopped) throw stopping();
        const { newest } = watcher;
        if (newest !== undefined && newest.version > watcher.sentVersion) {
          watcher.sentVersion = newest.version;
          yield newest;
          if (isFinal(newest.status)) return;
          continue;
        }
        await new Promise<void>((resolve) => {
          watcher.wake = resolve;
        });
      }
    } finally {
      signal.removeEventListener('abort', onAbort);
      remove(watcher);
    }
  }

  return {
    watchOrder,
    changed(orders) {
      if (count > 0) for (const order of orders) show(order);
    },
    async stop() {
      stopped = true;
      for (const ofOrder of watchers.values()) for (const { wake } of ofOrder) wake();
      await poller.stop();
    },
  };
}

function showTo(watcher: Watcher, order: Order): void {
  if (order.version <= (watcher.newest?.version ?? 0)) return;
  watcher.newest = order;
  watcher.wake();
}

function startPoller(
  { shards, reader, log }: WatchOrdersOptions,
  watchers: ReadonlyMap<bigint, ReadonlySet<Watcher>>,
  show: (order: Order) => void,
): Loop {
  return startLoop({
    name: 'watch-orders',
    intervalMs: pollEveryMs,
    log,
    async run() {
      if (watchers.size === 0) return;
      const known = new Map<bigint, number>();
      for (const [orderId, ofOrder] of watchers) {
        let oldest = Number.POSITIVE_INFINITY;
        for (const { newest } of ofOrder) oldest = Math.min(oldest, newest?.version ?? 0);
        known.set(orderId, oldest);
      }
      const deadline = Deadline.after(pollDeadlineMs);
      await readNewerOrders(shards, reader, known, show, deadline);
    },
  });
}

function stopping(): Refusal {
  return new Refusal('OVERLOADED', 'This process stops: watch again');
}
