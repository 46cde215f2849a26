import type { ReservationLine, StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { PostedOrder, PostResult } from './decide-post.ts';
import type { GateEntry, GateReply } from './gate.ts';
import type { LedgerBreaker } from './ledger-breaker.ts';
import {
  dead,
  deductStatus,
  gateFailureOutcome,
  gateOutcome,
  isNotLoaded,
  type Outcome,
  postOutcome,
  refused,
  unknown,
} from './reservation-outcomes.ts';
import { postChunks, type ReserveBatches } from './reserve-batches.ts';
import type { RequestResync } from './resync-queue.ts';
import type { SettledOrders } from './settled-orders.ts';
import type { SkuCatalogue } from './sku-catalogue.ts';
import type { StockMetrics } from './stock-metrics.ts';
import type { UndoRefused } from './undo-refused.ts';

export interface ReserveStockOptions {
  readonly batches: ReserveBatches;
  readonly undoRefused: UndoRefused;
  readonly catalogue: SkuCatalogue;
  readonly settled: SettledOrders;
  /** Asks for a SKU's gate to be installed anew, in the background. */
  readonly requestResync: RequestResync;
  readonly ledger: Pick<LedgerBreaker, 'open'>;
  /** Orders being reserved at once at most. */
  readonly ordersInFlightMax: number;
  readonly metrics: StockMetrics;
  readonly log: Log;
}

export type ReserveStock = (
  reservations: readonly StockReservation[],
  deadline: Deadline,
) => Promise<Outcome[]>;

/**
 * Reserves the lines of many orders, each wholly or not at all: through the gates of its SKUs in
 * ascending order, then into the ledger. Redis admits, MySQL decides. What is not known to have
 * happened is answered as unknown and nothing of it is undone.
 *
 * @throws Refusal OVERLOADED if too many orders are being reserved; DEPENDENCY_DOWN if the ledger is
 *   away. Nothing was done then.
 */
export function createReserveStock(options: ReserveStockOptions): ReserveStock {
  let inFlight = 0;
  return async (reservations, deadline) => {
    if (options.ledger.open) throw new Refusal('DEPENDENCY_DOWN', 'The ledger is away');
    if (inFlight + reservations.length > options.ordersInFlightMax) throw new Refusal('OVERLOADED');
    inFlight += reservations.length;
    try {
      const outcomes = await new Reservation(options, reservations, deadline).run();
      for (const outcome of outcomes)
        options.metrics.deducted.inc({ status: deductStatus(outcome) });
      return outcomes;
    } finally {
      inFlight -= reservations.length;
    }
  };
}

/** One call on its way. Orders are named by their index in it. */
class Reservation {
  readonly #options: ReserveStockOptions;
  readonly #reservations: readonly StockReservation[];
  readonly #deadline: Deadline;
  readonly #outcomes: (Outcome | undefined)[];
  /** Per order the epochs of the gates that it has passed, in the order of its lines. */
  readonly #epochs: number[][];
  /** Orders that were refused after they had passed gates. */
  readonly #toUndo: { index: number; refusal: Outcome }[] = [];

  constructor(
    options: ReserveStockOptions,
    reservations: readonly StockReservation[],
    deadline: Deadline,
  ) {
    this.#options = options;
    this.#reservations = reservations;
    this.#deadline = deadline;
    this.#outcomes = new Array(reservations.length).fill(undefined);
    this.#epochs = reservations.map(() => []);
  }

  async run(): Promise<Outcome[]> {
    await this.#refuseAbsentSkus();
    const admitted = await this.#passGates();
    if (admitted.length > 0) await this.#post(admitted);
    if (this.#toUndo.length > 0) await this.#undo();
    return this.#outcomes.map((outcome) => outcome ?? unknown);
  }

  async #refuseAbsentSkus(): Promise<void> {
    const absent = await this.#options.catalogue.absentAmong(this.#reservations, this.#deadline);
    if (absent === undefined || absent.size === 0) return;
    for (const [index, { lines }] of this.#reservations.entries()) {
      const line = lines.find(({ skuId }) => absent.has(skuId));
      if (!line) continue;
      const message = `There is no SKU ${line.skuId}`;
      this.#outcomes[index] = refused('NOT_FOUND', line.skuId, false, message);
    }
  }

  /** Takes the orders through their gates, line by line; answers those that passed all of theirs. */
  async #passGates(): Promise<number[]> {
    const admitted: number[] = [];
    let alive = [...this.#reservations.keys()].filter((index) => !this.#outcomes[index]);
    for (let line = 0; alive.length > 0; line += 1) {
      const bySku = new Map<bigint, number[]>();
      for (const index of alive) {
        const { lines } = this.#reservations[index] as StockReservation;
        const { skuId } = lines[line] as ReservationLine;
        const indexes = bySku.get(skuId);
        if (indexes) indexes.push(index);
        else bySku.set(skuId, [index]);
      }
      await Promise.all([...bySku].map(([skuId, indexes]) => this.#passGate(skuId, indexes, line)));
      const stillAlive: number[] = [];
      for (const index of alive) {
        const passed = (this.#epochs[index] as number[]).length === line + 1;
        if (!passed) continue;
        if (this.#reservations[index]?.lines.length === line + 1) admitted.push(index);
        else stillAlive.push(index);
      }
      alive = stillAlive;
    }
    return admitted;
  }

  async #passGate(skuId: bigint, indexes: readonly number[], line: number): Promise<void> {
    const entries = indexes.map((index): GateEntry => {
      return { reservation: this.#reservations[index] as StockReservation, line };
    });
    let reply: GateReply;
    try {
      reply = await this.#options.batches.gate.add({ skuId, entries }, this.#deadline);
    } catch (error) {
      const outcome = gateFailureOutcome(error, skuId, line);
      if (!(error instanceof Refusal))
        this.#options.log.error({ err: error }, 'a gate call failed');
      for (const index of indexes) this.#outcomes[index] = outcome;
      return;
    }
    if (reply.kind === 'EXPIRED') {
      const outcome = line === 0 ? refused('OVERLOADED', 0n, false) : unknown;
      for (const index of indexes) this.#outcomes[index] = outcome;
      return;
    }
    let resync = reply.kind === 'GATE_NOT_LOADED';
    for (const [at, index] of indexes.entries()) {
      if (reply.kind === 'GATE_NOT_LOADED') {
        this.#refuse(index, line, refused('STOCK_NOT_LOADED', skuId, false));
        continue;
      }
      const answer = reply.answers[at] as number | string;
      const outcome = gateOutcome(answer, skuId);
      if (outcome === undefined) (this.#epochs[index] as number[]).push(reply.epoch);
      else if (outcome.$case === 'adopted') this.#outcomes[index] = outcome;
      else this.#refuse(index, line, outcome);
      resync ||= isNotLoaded(answer);
    }
    if (resync) this.#options.requestResync(skuId, 'not_loaded');
  }

  /** A refusal by the first gate is the answer; a later one first bars what was taken before. */
  #refuse(index: number, linesPassed: number, refusal: Outcome): void {
    if (linesPassed === 0) this.#outcomes[index] = refusal;
    else this.#toUndo.push({ index, refusal });
  }

  async #post(admitted: readonly number[]): Promise<void> {
    const orders = admitted.map((index): PostedOrder => {
      return {
        reservation: this.#reservations[index] as StockReservation,
        epochs: this.#epochs[index] as number[],
      };
    });
    let from = 0;
    const posts = postChunks(orders).map((chunk) => {
      from += chunk.length;
      return this.#postChunk(admitted.slice(from - chunk.length, from), chunk);
    });
    await Promise.all(posts);
  }

  async #postChunk(indexes: readonly number[], chunk: readonly PostedOrder[]): Promise<void> {
    const { batches, log, settled, requestResync } = this.#options;
    let results: readonly PostResult[];
    try {
      results = await batches.posts.add(chunk, this.#deadline);
    } catch (error) {
      if (!(error instanceof Refusal)) log.error({ err: error }, 'a post failed');
      return;
    }
    for (const [at, index] of indexes.entries()) {
      const { reservation } = chunk[at] as PostedOrder;
      const result = results[at] as PostResult;
      const outcome = postOutcome(result, reservation);
      if (result.kind === 'RESERVED') {
        for (const { skuId } of reservation.lines) settled.add(skuId, reservation.orderId);
      }
      if (result.kind === 'SOLD_OUT') {
        const line = reservation.lines.findIndex(({ skuId }) => skuId === result.skuId);
        const epoch = (chunk[at] as PostedOrder).epochs[line];
        const seenEpoch = epoch === undefined ? undefined : BigInt(epoch);
        requestResync(result.skuId, 'ledger_refused', seenEpoch);
      }
      // An epoch that is refused fences nothing: a retry may pass the new gate under the same id.
      const final = outcome.$case !== 'refused' || result.kind === 'STOCK_NOT_LOADED';
      if (final) this.#outcomes[index] = outcome;
      else this.#toUndo.push({ index, refusal: outcome });
    }
  }

  /** Bars refused orders and gives back what they took; a copy may have brought one in meanwhile. */
  async #undo(): Promise<void> {
    const undone = this.#toUndo.map(({ index }) => {
      const reservation = this.#reservations[index] as StockReservation;
      const { length } = this.#epochs[index] as number[];
      return { reservation, linesPassed: length };
    });
    const fates = await this.#options.undoRefused(undone, this.#deadline);
    const held: number[] = [];
    for (const [at, { index, refusal }] of this.#toUndo.entries()) {
      const fate = fates[at];
      if (fate === 'UNDONE') this.#outcomes[index] = refusal;
      else if (fate === 'DEAD') this.#outcomes[index] = dead;
      else if (fate === 'HELD') held.push(index);
    }
    this.#toUndo.length = 0;
    if (held.length > 0) await this.#readHeld(held);
  }

  /** A copy of the request holds all lines under this very id, so they count as reserved here too. */
  async #readHeld(indexes: readonly number[]): Promise<void> {
    const orders = indexes.map((index): PostedOrder => {
      return { reservation: this.#reservations[index] as StockReservation, epochs: [] };
    });
    for (const chunk of postChunks(orders)) {
      const of = chunk.map(({ reservation }) => this.#reservations.indexOf(reservation));
      await this.#postChunk(of, chunk);
    }
    // Another refusal would have to be undone again: leave it to the loop.
    this.#toUndo.length = 0;
  }
}
