import { createTopicsOf } from './kafka.ts';
import type { Log } from './log.ts';

/** A broker that refuses to create it, or knows it in a moment, is not asked more often. */
const tryEveryMs = 2_000;
const causesMax = 5;
/** The broker's own default, so that a cluster of three replicates and a single broker does not have to. */
const brokersReplication = -1;

const triedAtMs = new Map<string, number>();

export interface LostTopicsOptions {
  readonly brokers: readonly string[];
  /** A topic of events; its dead-letter topic is looked after with it. */
  readonly topic: string;
  readonly log: Log;
}

/** Whether a failure says that Kafka does not have the topic. */
export function saysTopicIsMissing(error: unknown): boolean {
  let at = error;
  for (let depth = 0; depth < causesMax && at instanceof Error; depth += 1) {
    if ((at as { type?: unknown }).type === 'UNKNOWN_TOPIC_OR_PARTITION') return true;
    at = at.cause;
  }
  return false;
}

/**
 * Creates a topic and its dead-letter topic again if a failure says that Kafka has lost them: what was
 * in them is learnt from MySQL, and what comes now needs them. Never throws; the next failure tries again.
 */
export async function restoreLostTopics(error: unknown, options: LostTopicsOptions): Promise<void> {
  const { brokers, topic, log } = options;
  const tried = triedAtMs.get(topic) ?? Number.NEGATIVE_INFINITY;
  if (!saysTopicIsMissing(error) || performance.now() - tried < tryEveryMs) return;
  triedAtMs.set(topic, performance.now());
  try {
    const created = await createTopicsOf(brokers, topic, log, brokersReplication);
    if (created.length > 0)
      log.warn({ topics: created }, 'Kafka lost topics; they are created anew');
  } catch (cause) {
    log.error({ err: cause, topic }, 'Kafka lost a topic, and it cannot be created');
  }
}
