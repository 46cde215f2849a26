import type { Gate } from '../gates.ts';
import type { EventGroup, GroupProgress } from '../groups.ts';
import type { Stores } from '../stores.ts';
import type { OrderPicture } from './order-picture.ts';

/** What the audit looks after: the promises of the design, and that the gate agrees with the ledger (I5). */
export const promiseIds = ['P1', 'P2', 'P3', 'P4', 'P5', 'P6', 'P7', 'I5'] as const;
export type PromiseId = (typeof promiseIds)[number];

/** Something that is not as it must be. */
export interface Flaw {
  /** Names the sort of flaw, for counting and for scripts: `held-by-dead-order`. */
  readonly kind: string;
  /** One sentence with the ids. */
  readonly sentence: string;
  readonly orderId?: string;
  readonly skuId?: string;
  /**
   * True: no promise is broken, but an operator has to do something (a refund that the provider refuses). It does not
   * change the exit code.
   */
  readonly isFinding?: boolean;
}

/** The moments that a look compares with, as DATETIME(3) texts. */
export interface Clock {
  readonly now: string;
  /** What was due before this has had its time. */
  readonly settledBefore: string;
  /** Mails sent before this may have been pruned. */
  readonly mailsKeptSince: string;
  /** What orders became until then is consumed by the group; empty if that is not known. */
  readonly consumedUntil: Readonly<Record<EventGroup, string>>;
}

export interface OrderLook {
  readonly picture: OrderPicture;
  readonly clock: Clock;
  /** Where each slot lives: [database, table]. */
  readonly slots: readonly (readonly [number, number])[];
  report(flaw: Flaw): void;
}

export interface StoresLook {
  readonly stores: Stores;
  readonly graceSeconds: number;
  /** Only these SKUs; undefined means all. */
  readonly skuIds: readonly string[] | undefined;
  /** What stock says of a SKU's gate. @throws CouldNotLook */
  readGate(skuId: string): Promise<Gate>;
  /** How far the groups behind the events are. @throws CouldNotLook */
  readGroups(): Promise<readonly GroupProgress[]>;
  /** Counts something that was looked at: `count('SKUs', 3)`. */
  count(what: string, by: number): void;
  report(flaw: Flaw): void;
}

/** How one promise is checked. */
export interface PromiseCheck {
  readonly id: PromiseId;
  /** In a few words, for the table. */
  readonly title: string;
  /** What a look at one order counts, for the table. */
  counts?(picture: OrderPicture, count: (what: string, by: number) => void): void;
  /** Looks at one order. What it reports counts only if a second look finds the same. */
  lookAtOrder?(look: OrderLook): void;
  /** Looks at what does not belong to one order. What it reports is certain. @throws CouldNotLook */
  lookAtStores?(look: StoresLook): Promise<void>;
}
