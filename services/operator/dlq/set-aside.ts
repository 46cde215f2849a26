import { type DeadLetter, listDeadLetters, replayDeadLetters } from '../../runtime/dead-letters.ts';
import { orderEventsTopic } from '../../runtime/kafka.ts';
import { saysTopicIsMissing } from '../../runtime/lost-topics.ts';
import type { OperatorConfig } from '../config.ts';
import { CouldNotLook } from '../could-not-look.ts';
import { listOutboxRows, type OutboxRowAside, replayOutboxRows } from './outbox-rows.ts';
import { listWebhooks, replayWebhooks, type WebhookAside } from './webhooks-aside.ts';

/** The sorts of things that are set aside. */
export const setAsideKinds = ['event', 'outbox', 'webhook'] as const;
export type SetAsideKind = (typeof setAsideKinds)[number];

/** Something that could not take effect, and why. */
export type SetAside =
  /** A message that a consumer could not handle; it is in Kafka's dead-letter topic. */
  | ({ readonly kind: 'event' } & DeadLetter)
  /** Events that could not be published; they are in MySQL. */
  | ({ readonly kind: 'outbox' } & OutboxRowAside)
  /** A webhook of a payment provider; it is in MySQL. */
  | ({ readonly kind: 'webhook' } & WebhookAside);

export interface SetAsideOptions {
  readonly config: OperatorConfig;
  /** Absent: all. */
  readonly kind?: SetAsideKind | undefined;
  /** Only messages of this consumer group. */
  readonly group?: string | undefined;
  readonly limit: number;
}

/** The newest, oldest of them first. @throws CouldNotLook */
export async function listSetAside(options: SetAsideOptions): Promise<SetAside[]> {
  const { config, group, limit } = options;
  const letters = wants(options, 'event')
    ? await ofKafka(config, (source) => listDeadLetters({ ...source, limit, group }))
    : [];
  const rows = wants(options, 'outbox') ? await listOutboxRows(config, limit) : [];
  const webhooks = wants(options, 'webhook') ? await listWebhooks(config, limit) : [];
  return together(letters, rows, webhooks).slice(-limit);
}

/** Gives the oldest ones another try, messages first; answers those that get one, or would. @throws CouldNotLook */
export async function replaySetAside(
  options: SetAsideOptions & { readonly dryRun: boolean },
): Promise<SetAside[]> {
  const { config, group, limit, dryRun } = options;
  const letters = wants(options, 'event')
    ? await ofKafka(config, (source) => replayDeadLetters({ ...source, limit, group, dryRun }))
    : [];
  const rows = wants(options, 'outbox')
    ? await upTo(limit - letters.length, (left) =>
        replayOutboxRows(config, { limit: left, dryRun }),
      )
    : [];
  const webhooks = wants(options, 'webhook')
    ? await upTo(limit - letters.length - rows.length, (left) =>
        replayWebhooks(config, { limit: left, dryRun }),
      )
    : [];
  return together(letters, rows, webhooks);
}

async function upTo<One>(limit: number, work: (limit: number) => Promise<One[]>): Promise<One[]> {
  return limit > 0 ? await work(limit) : [];
}

/** A group names messages, so it leaves out everything else. */
function wants({ kind, group }: SetAsideOptions, wanted: SetAsideKind): boolean {
  if (group !== undefined && wanted !== 'event') return false;
  return kind === undefined || kind === wanted;
}

function together(
  letters: readonly DeadLetter[],
  rows: readonly OutboxRowAside[],
  webhooks: readonly WebhookAside[],
): SetAside[] {
  const all: SetAside[] = [
    ...letters.map((letter) => ({ kind: 'event' as const, ...letter })),
    ...rows.map((row) => ({ kind: 'outbox' as const, ...row })),
    ...webhooks.map((webhook) => ({ kind: 'webhook' as const, ...webhook })),
  ];
  return all.sort((a, b) => a.time.getTime() - b.time.getTime());
}

async function ofKafka(
  { kafkaBrokers: brokers, topicPrefix }: OperatorConfig,
  work: (source: { brokers: readonly string[]; topic: string }) => Promise<DeadLetter[]>,
): Promise<DeadLetter[]> {
  const topic = orderEventsTopic(topicPrefix);
  try {
    return await work({ brokers, topic });
  } catch (error) {
    const at = `Kafka at ${brokers.join(',')}`;
    const elsewhere = 'What is in MySQL is shown with --kind outbox and --kind webhook.';
    if (saysTopicIsMissing(error)) {
      const sentence = `${at} has no dead letters of ${topic}: is SLUICE_KAFKA_TOPIC_PREFIX right? A topic that Kafka lost is created anew by the services.`;
      throw new CouldNotLook(`${sentence} ${elsewhere}`, error);
    }
    throw new CouldNotLook(
      `${at} could not be read (${(error as Error).message}): is it running, and are SLUICE_KAFKA_BROKERS and SLUICE_KAFKA_TOPIC_PREFIX right? ${elsewhere}`,
      error,
    );
  }
}
