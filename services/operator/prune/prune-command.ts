import { Command, Option } from 'commander';
import { span } from '../arguments.ts';
import { mailsKeptDays } from '../audit/audit-clock.ts';
import type { CommandContext } from '../command-line.ts';
import { createProgress } from '../progress.ts';
import { openStores } from '../stores.ts';
import { type PruneResult, prune } from './prune.ts';
import { prunedTables } from './pruning.ts';

interface Options {
  readonly dryRun?: boolean;
  readonly json?: boolean;
  readonly olderThan: number;
  readonly refundedOlderThan: number;
}

const daySeconds = 86_400;
/** Longer than providers repeat webhooks and than the topic keeps events. */
const daysMin = mailsKeptDays;

const help = `
In steps of at most 1,000 rows, each its own transaction, with rests in between; it may be stopped and run again at any time, and the
audit stays clean. By age (of the last change):

  archived   CANCELLED and REJECTED orders, and fences (ABORTED), after --older-than; REFUNDED orders after --refunded-older-than: one row each in
             archived_orders of their order database, with lines and history as JSON. "./sluice explain" still shows them; GetOrder does not,
             and their request ids are forgotten: the same request would make a new order.
  removed    RELEASED and FENCED holds of archived orders and of orders that never came (the watermark bars late posts of such ids);
             webhooks in the inbox, confirmations that were sent, and fences against payments of closed orders.
  kept       PENDING, PAID and REFUNDING orders; HELD, SOLD and RESTOCKED holds, which the ledger's figures count; payments and refunds, the
             books; counted orders and statistics, whose sums must agree; adjustments of stock, which are few and whose ids must count once;
             rows of the outbox, which leave it by being published; whatever still has an unsettled payment or refund.
`;

/** `./sluice prune` */
export function pruneCommand(context: CommandContext): Command {
  return new Command('prune')
    .description('Archives and removes what is old, in bounded steps.')
    .option('--dry-run', 'only count what would go, by table')
    .option('--json', 'write the result as JSON and nothing else to standard output')
    .addOption(
      new Option(
        '--older-than <span>',
        `age of closed orders, webhooks and mails, such as 30d; ${daysMin}d at least`,
      )
        .argParser(span(daysMin * daySeconds))
        .default(30 * daySeconds, '30d'),
    )
    .addOption(
      new Option('--refunded-older-than <span>', `age of refunded orders; ${daysMin}d at least`)
        .argParser(span(daysMin * daySeconds))
        .default(400 * daySeconds, '400d'),
    )
    .addHelpText('after', help)
    .action(async (options: Options) => {
      const result = await run(context, options);
      const text = options.json ? `${JSON.stringify(result, null, 2)}\n` : pruneText(result);
      context.stdout.write(text);
    });
}

async function run(context: CommandContext, options: Options): Promise<PruneResult> {
  const config = context.readConfig();
  const stores = await openStores(config);
  try {
    return await prune({
      config,
      stores,
      dryRun: options.dryRun ?? false,
      olderThanSeconds: options.olderThan,
      refundedOlderThanSeconds: options.refundedOlderThan,
      progress: createProgress(context.stderr),
    });
  } finally {
    await stores.close();
  }
}

function pruneText({ dryRun, cutoffs, rows, kept }: PruneResult): string {
  const lines = [
    `${dryRun ? 'Would go' : 'Gone'}: what is older than ${cutoffs.closed} UTC, refunded orders older than ${cutoffs.refunded} UTC.`,
    '',
  ];
  for (const table of prunedTables) {
    lines.push(`${table.padEnd(20)} ${rows[table].toLocaleString('en').padStart(12)}`);
  }
  const archived = `${dryRun ? 'would be' : 'are'} in archived_orders`;
  lines.push('', `${rows.orders.toLocaleString('en')} orders and fences ${archived}.`);
  for (const [reason, count] of Object.entries(kept)) {
    lines.push(`${count.toLocaleString('en')} old orders stay: ${reason}.`);
  }
  return `${lines.join('\n')}\n`;
}
