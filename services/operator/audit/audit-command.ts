import { Command } from 'commander';
import { createLog } from '../../runtime/log.ts';
import { idList, promiseList, wholeNumber } from '../arguments.ts';
import type { CommandContext } from '../command-line.ts';
import { exitCode } from '../could-not-look.ts';
import { connectGates } from '../gates.ts';
import { connectGroups } from '../groups.ts';
import { createProgress } from '../progress.ts';
import { openStores } from '../stores.ts';
import { type AuditResult, audit, promiseChecks } from './audit.ts';
import { auditText } from './audit-text.ts';
import { type PromiseId, promiseIds } from './promise.ts';
import { requireSkus } from './sku-ids.ts';

interface Options {
  readonly json?: boolean;
  readonly sku?: readonly string[];
  readonly promise?: readonly PromiseId[];
  readonly grace: number;
}

/** P4 gives what is unknown this long to be settled. */
const graceDefault = 60;

const help = `
Reads MySQL by itself, without stopping anything and without changing anything, and asks the stock service for the gates
and Kafka how far the consumers are. Whatever disagrees and has changed within the grace is looked at again until it agrees or is older than that.

${promiseChecks.map(({ id, title }) => `  ${id}  ${title}`).join('\n')}

A breach is a broken promise (exit code 1). "For an operator" is what breaks none and wants somebody: refunds that the provider refused,
mails that were not sent, limits per user that were exceeded because Redis had lost its memory, a group of consumers that is behind
by more than the grace: orders whose newest event it has not consumed yet are not judged by its effects (exit code 0).
Exit code 2: it could not look at everything, and found no breach in the rest.
`;

/** `./sluice audit` */
export function auditCommand(context: CommandContext): Command {
  return new Command('audit')
    .description(
      'Checks the promises P1 to P7, and that the gate equals the ledger (I5), on the live system.',
    )
    .option('--json', 'write the result as JSON and nothing else to standard output')
    .option('--sku <id...>', 'only these SKUs, and the orders that have one of them', idList)
    .option('--promise <id...>', `only these of ${promiseIds.join(', ')}`, promiseList)
    .option(
      '--grace <seconds>',
      'how long things may disagree while the system works on them',
      wholeNumber(0, 86_400),
      graceDefault,
    )
    .addHelpText('after', help)
    .action(async (options: Options) => {
      const result = await run(context, options);
      const text = options.json ? `${JSON.stringify(result, null, 2)}\n` : auditText(result);
      context.stdout.write(text);
      context.exitWith(codeOf(result));
    });
}

async function run(context: CommandContext, options: Options): Promise<AuditResult> {
  const config = context.readConfig();
  const stores = await openStores(config);
  const log = createLog('operator', 'silent');
  const gates = connectGates(config, log);
  const groups = connectGroups(config, log);
  try {
    if (options.sku !== undefined) await requireSkus(stores, options.sku);
    return await audit({
      stores,
      gates,
      groups,
      promises: options.promise ?? promiseIds,
      skuIds: options.sku,
      graceSeconds: options.grace,
      progress: createProgress(context.stderr),
    });
  } finally {
    gates.close();
    await groups.close();
    await stores.close();
  }
}

function codeOf({ breaches, promises }: AuditResult): number {
  if (breaches > 0) return exitCode.breaches;
  const isBlind = promises.some(({ couldNotLook }) => couldNotLook !== undefined);
  return isBlind ? exitCode.couldNotLook : exitCode.clean;
}
