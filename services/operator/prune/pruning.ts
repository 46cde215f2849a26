import { setTimeout as sleep } from 'node:timers/promises';
import type { Progress } from '../progress.ts';
import type { Stores } from '../stores.ts';
import type { WritableDatabase } from './writable-database.ts';

/** Rows read or removed in one step at most. */
export const stepRowsMax = 1_000;
/** Rest after each step that removed something, so that buyers come first. */
const restMs = 50;

/** Databases that rows are removed from. */
export interface WritableStores {
  readonly orders: readonly WritableDatabase[];
  readonly stock: WritableDatabase;
  readonly payment: WritableDatabase;
  readonly events: WritableDatabase;
}

/** Moments before which things may go, as DATETIME(3) texts of MySQL's clock. */
export interface Cutoffs {
  readonly closed: string;
  readonly refunded: string;
}

/** One run, passed to each part of it. */
export interface Pruning {
  readonly stores: Stores;
  /** Undefined in a dry run, which therefore cannot remove anything. */
  readonly writable: WritableStores | undefined;
  readonly cutoffs: Cutoffs;
  readonly progress: Progress;
  /** Counts rows that went, or would go, from a table (`orders`, `stock_holds`, …) or into the archive. */
  count(table: PrunedTable, rows: number): void;
  /** Counts old orders that have to stay, by reason. */
  keep(reason: string): void;
}

/** What can be counted, in the order of the report. */
export const prunedTables = [
  'orders',
  'order_items',
  'order_history',
  'stock_holds',
  'closed_orders',
  'webhook_inbox',
  'confirmation_mails',
] as const;
export type PrunedTable = (typeof prunedTables)[number];

export async function rest({ writable }: Pruning): Promise<void> {
  if (writable !== undefined) await sleep(restMs);
}
