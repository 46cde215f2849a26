import assert from 'node:assert/strict';
import { eventually } from '../support/eventually.ts';
import type { System } from '../support/system.ts';
import { attempt, type Click } from '../support/workload.ts';
import { attemptOf } from './buyers.ts';
import { notYet, onSale, over } from './clock-shop.ts';
import { type Attempt, type Sent, startSending } from './harness.ts';

const perSecond = 30;
/** No order is unknown because the machine stood still for a moment. */
const budgetMs = 8_000;
/** Of both copies of order: so many in a row, all made, and the clocks are judged. */
const inARow = 20;
/** A bound, not an expectation. */
const judgedWithinMs = 30_000;

/** Buyers of SKUs on sale, and some of SKUs whose sale is over or has not begun, until they are stopped. */
export class ClockBuyers {
  readonly history: Click[] = [];
  readonly #system: System;
  readonly #onSale;
  readonly #early;
  readonly #late;
  readonly #made: bigint[] = [];

  constructor(system: System) {
    this.#system = system;
    this.#onSale = startSending({ perSecond, send: (number) => this.#buy(number, onSale) });
    this.#early = startSending({ perSecond: 5, send: (number) => this.#buy(number, [notYet]) });
    this.#late = startSending({ perSecond: 5, send: (number) => this.#buy(number, [over]) });
  }

  /** Waits until buyers who came after a moment are served. @returns when the first of them came */
  async untilServed(sinceMs: number): Promise<number> {
    let newest: readonly Sent[] = [];
    const areServed = (): boolean => {
      newest = since(this.#onSale.sent, sinceMs).slice(-inARow);
      return (
        newest.length === inARow && newest.every(({ attempt: { outcome } }) => outcome === 'made')
      );
    };
    await eventually(areServed, 'orders are made', { withinMs: judgedWithinMs });
    return newest[0]?.dueMs ?? 0;
  }

  /** Orders that were made last, and that nobody has been given before. */
  newestOrders(count: number): bigint[] {
    return this.#made.splice(-count);
  }

  /**
   * Asserts that everybody is served since a moment, that those who came before it were told "not now" at worst, and that
   * nothing was sold that is not on sale.
   */
  expectHarmless({ steppedMs, servedMs }: { steppedMs: number; servedMs: number }): string {
    const unmade = (sent: readonly Sent[]): Attempt[] =>
      sent.map((one) => one.attempt).filter(({ outcome }) => outcome !== 'made');
    const meanwhile = since(this.#onSale.sent, steppedMs).filter(({ dueMs }) => dueMs < servedMs);
    const told = unmade(meanwhile);
    assert.deepEqual(
      unmade(since(this.#onSale.sent, servedMs)),
      [],
      'everybody is served afterwards',
    );
    assert.deepEqual(
      told.filter(({ outcome }) => outcome !== 'unserved'),
      [],
      'refused with "not now"',
    );
    for (const [sent, reason] of [
      [this.#early.sent, 'SALE_NOT_STARTED'],
      [this.#late.sent, 'SALE_ENDED'],
    ] as const) {
      const reasons = since(sent, servedMs).map((one) => one.attempt.reason);
      assert.ok(reasons.length > 0);
      assert.deepEqual(new Set(reasons), new Set([reason]));
      const wrong = since(sent, steppedMs).filter(({ attempt: { outcome } }) => outcome === 'made');
      assert.deepEqual(wrong, [], 'nothing is sold that is not on sale');
    }
    const reasons = Object.entries(Object.groupBy(told, ({ reason = '' }) => reason));
    const counts = reasons.map(([reason, all]) => `${reason} ${all?.length}`).join(', ');
    const lastMs = meanwhile.findLast((one) => one.attempt.outcome !== 'made')?.dueMs ?? steppedMs;
    const forMs = Math.round(lastMs - steppedMs);
    return `${told.length} of ${meanwhile.length} orders refused within ${forMs} ms: ${counts}`;
  }

  async stop(): Promise<void> {
    await Promise.all([this.#onSale.stop(), this.#early.stop(), this.#late.stop()]);
  }

  async #buy(number: number, skuIds: readonly bigint[]): Promise<Attempt> {
    const skuId = skuIds[number % skuIds.length] as bigint;
    const click: Click = {
      userId: BigInt(1_000 * number) + (skuId % 1_000n),
      requestId: `clock-${skuId}-${number}`,
      lines: [{ skuId, quantity: 1 }],
      outcomes: [],
    };
    this.history.push(click);
    const answer = await attempt(this.#system.order(number % 2), click, budgetMs);
    if (answer.kind !== 'ok') return attemptOf(answer.reason);
    this.#made.push(answer.orderId);
    return { outcome: 'made' };
  }
}

/** Those that were due later than a moment, in the order in which they were due. */
function since(sent: readonly Sent[], sinceMs: number): Sent[] {
  return sent.filter(({ dueMs }) => dueMs >= sinceMs).sort((a, b) => a.dueMs - b.dueMs);
}
