import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { PostedOrder } from './decide-post.ts';
import { type Outcome, unknown } from './reservation-outcomes.ts';

/** The orders of one call on their way, named by their index in it, and what is known of each so far. */
export class Reservations {
  readonly entries: readonly StockReservation[];
  readonly deadline: Deadline;
  readonly #outcomes: (Outcome | undefined)[];
  /** Per order the epochs of the gates that it has passed, in the order of its lines. */
  readonly #epochs: number[][];
  /** Refusals of orders whose units are out at some gates. */
  readonly #refusedBehindGates = new Map<number, Outcome>();
  /** Orders whose refusal was looked at once. */
  readonly #doubted = new Set<number>();

  constructor(entries: readonly StockReservation[], deadline: Deadline) {
    this.entries = entries;
    this.deadline = deadline;
    this.#outcomes = new Array(entries.length).fill(undefined);
    this.#epochs = entries.map(() => []);
  }

  at(index: number): StockReservation {
    return this.entries[index] as StockReservation;
  }

  /** Orders without an answer. */
  get open(): number[] {
    return [...this.entries.keys()].filter((index) => {
      return this.#outcomes[index] === undefined && !this.#refusedBehindGates.has(index);
    });
  }

  answer(index: number, outcome: Outcome): void {
    this.#outcomes[index] = outcome;
    this.#refusedBehindGates.delete(index);
  }

  passed(index: number, epoch: number): void {
    (this.#epochs[index] as number[]).push(epoch);
  }

  gatesPassed(index: number): number {
    return (this.#epochs[index] as number[]).length;
  }

  /** A refusal is the answer if no gate was passed; else what was taken there has to be barred first. */
  refuse(index: number, refusal: Outcome): void {
    if (this.gatesPassed(index) === 0) this.answer(index, refusal);
    else this.#refusedBehindGates.set(index, refusal);
  }

  /** Orders that are refused although an order of their request may exist; each is named once. */
  takeDoubtful(): number[] {
    const doubtful = [...this.entries.keys()].filter((index) => {
      const refusal = this.#refusedBehindGates.get(index) ?? this.#outcomes[index];
      const isDoubtful = refusal?.$case === 'refused' && refusal.value.lookUp;
      return isDoubtful && !this.#doubted.has(index);
    });
    for (const index of doubtful) this.#doubted.add(index);
    return doubtful;
  }

  /** Orders whose units have to be given back at the gates, with what they are answered then. */
  get toUndo(): { index: number; refusal: Outcome }[] {
    return [...this.#refusedBehindGates].map(([index, refusal]) => ({ index, refusal }));
  }

  /** Takes a refusal back: the ledger has the order. */
  reopen(index: number): void {
    this.#outcomes[index] = undefined;
    this.#refusedBehindGates.delete(index);
  }

  posted(index: number): PostedOrder {
    return { reservation: this.at(index), epochs: this.#epochs[index] as number[] };
  }

  /** One outcome per order; what is not known by now is unknown. */
  get outcomes(): Outcome[] {
    return this.#outcomes.map((outcome) => outcome ?? unknown);
  }
}
