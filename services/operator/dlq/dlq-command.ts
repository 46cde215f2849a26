import { Command } from 'commander';
import { type DeadLetter, listDeadLetters, replayDeadLetters } from '../../runtime/dead-letters.ts';
import { orderEventsTopic } from '../../runtime/kafka.ts';
import { wholeNumber } from '../arguments.ts';
import type { CommandContext } from '../command-line.ts';
import { CouldNotLook } from '../could-not-look.ts';

interface Options {
  readonly group?: string;
  readonly limit: number;
  readonly json?: boolean;
  readonly dryRun?: boolean;
}

const limitMax = 10_000;
const limitDefault = 100;
const help = `
A message that a consumer could not handle, whatever was tried, is kept as a dead letter with the reason, the group that failed and where it was.
Once the cause is mended, replay gives each letter to its own group again, once; the other groups have had it and skip it.
`;

/** `./sluice dlq list` and `./sluice dlq replay` */
export function dlqCommand(context: CommandContext): Command {
  const dlq = new Command('dlq').description('Lists or replays dead letters.');
  dlq.addHelpText('after', help);
  dlq
    .addCommand(
      withOptions(new Command('list').description('Shows the newest dead letters.')).action(
        async (options: Options) => {
          const letters = await reading(context, (source) =>
            listDeadLetters({ ...source, limit: options.limit, group: options.group }),
          );
          const text = `${letters.length} dead letters.`;
          write(context, options, letters, text);
        },
      ),
    )
    .addCommand(
      withOptions(
        new Command('replay').description(
          'Gives the oldest dead letters that were not replayed yet to their groups again.',
        ),
      )
        .option('--dry-run', 'only show what would be replayed')
        .action(async (options: Options) => {
          const { limit, group, dryRun = false } = options;
          const letters = await reading(context, (source) =>
            replayDeadLetters({ ...source, limit, group, dryRun }),
          );
          const text = dryRun ? 'would be replayed' : 'were replayed';
          write(context, options, letters, `${letters.length} dead letters ${text}.`);
        }),
    );
  return dlq;
}

function withOptions(command: Command): Command {
  return command
    .option('--group <name>', 'only letters of this consumer group')
    .option('--limit <count>', 'letters at most', wholeNumber(1, limitMax), limitDefault)
    .option('--json', 'write the result as JSON and nothing else to standard output');
}

async function reading(
  context: CommandContext,
  read: (source: { brokers: readonly string[]; topic: string }) => Promise<DeadLetter[]>,
): Promise<DeadLetter[]> {
  const { kafkaBrokers: brokers, topicPrefix } = context.readConfig();
  try {
    return await read({ brokers, topic: orderEventsTopic(topicPrefix) });
  } catch (error) {
    throw new CouldNotLook(
      `Kafka at ${brokers.join(',')} could not be read (${(error as Error).message}): is it running, and are SLUICE_KAFKA_BROKERS and SLUICE_KAFKA_TOPIC_PREFIX right?`,
      error,
    );
  }
}

function write(
  { stdout }: CommandContext,
  { json }: Options,
  letters: readonly DeadLetter[],
  conclusion: string,
): void {
  if (json) {
    const all = letters.map(({ value, ...letter }) => ({
      ...letter,
      value: Buffer.from(value).toString('base64'),
    }));
    stdout.write(`${JSON.stringify(all, null, 2)}\n`);
    return;
  }
  for (const { time, group, key, reason, origin, replayed } of letters) {
    const where = `${origin.topic}/${origin.partition}@${origin.offset}`;
    const again = replayed ? ' (replayed)' : '';
    stdout.write(`${time.toISOString()}  ${group}  order ${key}  ${where}${again}\n  ${reason}\n`);
  }
  stdout.write(`${conclusion}\n`);
}
