import { Command, Option } from 'commander';
import { wholeNumber } from '../arguments.ts';
import type { CommandContext } from '../command-line.ts';
import { CouldNotLook } from '../could-not-look.ts';
import {
  listSetAside,
  replaySetAside,
  type SetAside,
  type SetAsideKind,
  setAsideKinds,
} from './set-aside.ts';

interface Options {
  readonly kind?: SetAsideKind;
  readonly group?: string;
  readonly limit: number;
  readonly json?: boolean;
  readonly dryRun?: boolean;
}

const limitMax = 10_000;
const limitDefault = 100;
const ordersShown = 5;
const help = `
What cannot take effect is set aside with the reason, so that it stops nothing else:
  event   a message that a consumer could not handle, whatever was tried, with the group that failed and where it was;
  outbox  events of an order database that cannot be read, or that Kafka refuses for good;
  webhook what a payment provider told and could not be stored. Payment tries it again by itself, after ever longer pauses.
Once the cause is mended, replay gives each another try: a message goes to its own group again, once, and the other groups skip it; an
outbox row is published by the order service's relay, a webhook is tried by payment at once. What fails again is set aside again.
`;

/** `./sluice dlq list` and `./sluice dlq replay` */
export function dlqCommand(context: CommandContext): Command {
  const dlq = new Command('dlq').description('Lists or replays what was set aside.');
  dlq.addHelpText('after', help);
  const list = new Command('list').description('Shows what was set aside last.');
  const replay = new Command('replay').description(
    'Gives what was set aside first, and was not replayed yet, another try.',
  );
  dlq.addCommand(
    withOptions(list).action(async (options: Options) => {
      const found = await listSetAside(readOptions(context, options));
      write(context, options, found, `${amountOf(found)}.`);
    }),
  );
  dlq.addCommand(
    withOptions(replay)
      .option('--dry-run', 'only show what would be replayed')
      .action(async (options: Options) => {
        const { dryRun = false } = options;
        const found = await replaySetAside({ ...readOptions(context, options), dryRun });
        const text = dryRun ? 'would be replayed' : 'were replayed';
        write(context, options, found, `${amountOf(found)} ${text}.`);
      }),
  );
  return dlq;
}

function withOptions(command: Command): Command {
  return command
    .addOption(new Option('--kind <kind>', 'only one kind').choices(setAsideKinds))
    .option('--group <name>', 'only messages of this consumer group')
    .option('--limit <count>', 'things at most', wholeNumber(1, limitMax), limitDefault)
    .option('--json', 'write the result as JSON and nothing else to standard output');
}

function readOptions(context: CommandContext, { kind, group, limit }: Options) {
  if (group !== undefined && kind !== undefined && kind !== 'event') {
    throw new CouldNotLook(`--group names a consumer group, and --kind ${kind} has none.`);
  }
  return { config: context.readConfig(), kind, group, limit };
}

function amountOf(found: readonly SetAside[]): string {
  const count = (wanted: SetAsideKind): number =>
    found.filter(({ kind }) => kind === wanted).length;
  const parts = [`${count('event')} dead letters`];
  if (count('outbox') > 0) parts.push(`${count('outbox')} outbox rows`);
  if (count('webhook') > 0) parts.push(`${count('webhook')} webhooks`);
  return parts.join(' and ');
}

function write(
  { stdout }: CommandContext,
  { json }: Options,
  found: readonly SetAside[],
  conclusion: string,
): void {
  if (json) {
    stdout.write(`${JSON.stringify(found.map(toJson), null, 2)}\n`);
    return;
  }
  for (const one of found) stdout.write(`${toText(one)}\n  ${one.reason}\n`);
  stdout.write(`${conclusion}\n`);
}

function toJson(one: SetAside): object {
  if (one.kind !== 'event') return one;
  return { ...one, value: Buffer.from(one.value).toString('base64') };
}

function toText(one: SetAside): string {
  const time = one.time.toISOString();
  if (one.kind === 'event') {
    const { group, key, origin, replayed } = one;
    const where = `${origin.topic}/${origin.partition}@${origin.offset}`;
    return `${time}  ${group}  order ${key}  ${where}${replayed ? ' (replayed)' : ''}`;
  }
  if (one.kind === 'webhook') {
    const { provider, eventId, attempts, nextTime } = one;
    const next = `tried ${attempts} times, next at ${nextTime.toISOString()}`;
    return `${time}  webhook ${eventId} of ${provider}  ${next}`;
  }
  const { database, id, orderIds, waits } = one;
  const shown = orderIds.slice(0, ordersShown).join(', ');
  const more = orderIds.length > ordersShown ? ', …' : '';
  const orders = orderIds.length === 0 ? '' : `  orders ${shown}${more}`;
  return `${time}  outbox of ${database}  row ${id}${orders}${waits ? ' (is tried again)' : ''}`;
}
