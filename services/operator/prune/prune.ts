import type { OperatorConfig } from '../config.ts';
import type { Progress } from '../progress.ts';
import { type Database, readClock, type Stores } from '../stores.ts';
import { archiveOrders } from './archive-orders.ts';
import { removeClosedOrders, removeMails, removeWebhooks } from './old-rows.ts';
import { removeOrphanedHolds } from './orphaned-holds.ts';
import { type PrunedTable, type Pruning, prunedTables, type WritableStores } from './pruning.ts';
import { openWritableDatabase } from './writable-database.ts';

export interface PruneOptions {
  readonly config: OperatorConfig;
  readonly stores: Stores;
  readonly dryRun: boolean;
  readonly olderThanSeconds: number;
  readonly refundedOlderThanSeconds: number;
  readonly progress: Progress;
}

export interface PruneResult {
  readonly dryRun: boolean;
  /** What went before these moments, in UTC. */
  readonly cutoffs: { readonly closed: string; readonly refunded: string };
  /** Rows that went (or would go), by table; those of orders are in the archive. */
  readonly rows: Readonly<Record<PrunedTable, number>>;
  /** Old orders that stay, by reason. */
  readonly kept: Readonly<Record<string, number>>;
}

/** Archives and removes what is old, in steps. It may be stopped at any moment and run again. @throws CouldNotLook */
export async function prune(options: PruneOptions): Promise<PruneResult> {
  const { config, stores, dryRun, progress } = options;
  const clock = stores.orders[0] as Database;
  const { before: closed } = await readClock(clock, options.olderThanSeconds);
  const { before: refunded } = await readClock(clock, options.refundedOlderThanSeconds);
  const rows = Object.fromEntries(prunedTables.map((table) => [table, 0])) as Record<
    PrunedTable,
    number
  >;
  const kept: Record<string, number> = {};
  const writable = dryRun ? undefined : openWritable(config, stores);
  const pruning: Pruning = {
    stores,
    writable,
    cutoffs: { closed, refunded },
    progress,
    count(table, removed) {
      rows[table] += removed;
    },
    keep(reason) {
      kept[reason] = (kept[reason] ?? 0) + 1;
    },
  };
  try {
    await archiveOrders(pruning);
    await removeOrphanedHolds(pruning);
    await removeClosedOrders(pruning);
    await removeWebhooks(pruning);
    await removeMails(pruning);
  } finally {
    progress.done();
    if (writable !== undefined) {
      const all = [...writable.orders, writable.stock, writable.payment, writable.events];
      await Promise.all(all.map((database) => database.close()));
    }
  }
  return { dryRun, cutoffs: pruning.cutoffs, rows, kept };
}

function openWritable({ mysqlUrls }: OperatorConfig, stores: Stores): WritableStores {
  const open = ({ name }: Database, index = 0) =>
    openWritableDatabase(mysqlUrls[index % mysqlUrls.length] as string, name);
  return {
    orders: stores.orders.map((database, index) => open(database, index)),
    stock: open(stores.stock),
    payment: open(stores.payment),
    events: open(stores.events),
  };
}
