import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../runtime/log.ts';
import type { Gate } from './gate.ts';

/** Orders waiting to be removed from pending lists; beyond, the settling loop finds them later. */
const waitingMax = 100_000;
const chunkMax = 1_000;
/** Between two rounds, so that a SKU of many buyers is called for many of them at once. */
const pauseMs = 100;

/**
 * Removes orders from the gates' pending lists after the ledger has them: in the background, one
 * call per SKU for all that came together. What is lost here the settling loop finds by their age.
 */
export class SettledOrders {
  readonly #gate: Gate;
  readonly #log: Log;
  #waiting = new Map<bigint, bigint[]>();
  #count = 0;
  #flushing: Promise<void> | undefined;
  #closed = false;

  constructor(gate: Gate, log: Log) {
    this.#gate = gate;
    this.#log = log;
  }

  add(skuId: bigint, orderId: bigint): void {
    if (this.#count >= waitingMax) return;
    this.#count += 1;
    const orders = this.#waiting.get(skuId);
    if (orders) orders.push(orderId);
    else this.#waiting.set(skuId, [orderId]);
    this.#flushing ??= this.#flush();
  }

  /** Resolves when nothing waits. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#flushing;
  }

  async #flush(): Promise<void> {
    while (this.#waiting.size > 0) {
      if (!this.#closed) await sleep(pauseMs);
      const batch = this.#waiting;
      this.#waiting = new Map();
      this.#count = 0;
      const calls = [...batch].flatMap(([skuId, orders]) =>
        chunksOf(orders).map((chunk) => this.#gate.settle(skuId, chunk)),
      );
      const results = await Promise.allSettled(calls);
      const failed = results.find((result) => result.status === 'rejected');
      if (failed) this.#log.debug({ err: failed.reason }, 'pending entries stay for the loop');
    }
    this.#flushing = undefined;
  }
}

function chunksOf(orders: readonly bigint[]): bigint[][] {
  const chunks: bigint[][] = [];
  for (let from = 0; from < orders.length; from += chunkMax) {
    chunks.push(orders.slice(from, from + chunkMax));
  }
  return chunks;
}
