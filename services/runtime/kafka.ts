import { createRequire } from 'node:module';
import { Kafka, logLevel } from 'kafkajs';
import type { Log } from './log.ts';

/** Partitions of every event topic. */
export const eventPartitions = 12;
const requestTimeoutMs = 5_000;

/** A kafkajs client whose log goes to ours and whose idle connections set no timers. */
export function createKafka(clientId: string, brokers: readonly string[], log: Log): Kafka {
  stopIdleTimers();
  return new Kafka({
    clientId,
    brokers: [...brokers],
    connectionTimeout: 2_000,
    requestTimeout: requestTimeoutMs,
    enforceRequestTimeout: true,
    retry: { initialRetryTime: 100, maxRetryTime: 2_000, retries: 5 },
    logLevel: logLevel.WARN,
    logCreator:
      () =>
      ({ namespace, level, log: entry }) => {
        const fields = { kafka: namespace, detail: entry.message, error: entry.error };
        if (level === logLevel.ERROR) log.warn(fields, 'kafka client reports an error');
        else log.debug(fields, 'kafka client');
      },
  });
}

/** A month: somebody has to find the fault and mend it before a dead letter can come back. */
const deadLetterRetentionMs = 30 * 86_400_000;

/**
 * Creates the topic of order events and its dead-letter topic where they do not exist yet.
 *
 * @param replicationFactor 1 for a single broker, 3 for a cluster
 */
export async function createEventTopics(
  brokers: readonly string[],
  topicPrefix: string,
  log: Log,
  replicationFactor = 1,
): Promise<void> {
  await createTopicsOf(brokers, orderEventsTopic(topicPrefix), log, replicationFactor);
}

/** The same for a topic of events by its name; answers which of the two were created. */
export async function createTopicsOf(
  brokers: readonly string[],
  topic: string,
  log: Log,
  replicationFactor: number,
): Promise<string[]> {
  const admin = createKafka('sluice-admin', brokers, log).admin();
  await admin.connect();
  try {
    const existing = new Set(await admin.listTopics());
    const topics = [
      { topic, numPartitions: eventPartitions, replicationFactor },
      {
        topic: deadLetterTopic(topic),
        numPartitions: 1,
        replicationFactor,
        configEntries: [{ name: 'retention.ms', value: String(deadLetterRetentionMs) }],
      },
    ].filter((candidate) => !existing.has(candidate.topic));
    if (topics.length > 0) await admin.createTopics({ topics, waitForLeaders: true });
    return topics.map((created) => created.topic);
  } finally {
    await admin.disconnect();
  }
}

/** The topic of order events. */
export function orderEventsTopic(topicPrefix: string): string {
  return `${topicPrefix}sluice.order.events`;
}

const deadLetterSuffix = '.dead-letters';

/** Where messages go that no retry can help. */
export function deadLetterTopic(topic: string): string {
  return `${topic}${deadLetterSuffix}`;
}

/** The topic of events that a topic belongs to: itself, or the one whose dead letters it has. */
export function eventTopicOf(topic: string): string {
  return topic.endsWith(deadLetterSuffix) ? topic.slice(0, -deadLetterSuffix.length) : topic;
}

interface RequestQueue {
  pending: unknown[];
  throttledUntil: number;
  scheduleCheckPendingRequests(): void;
}

let idleTimersStopped = false;

/**
 * kafkajs 2.2.4 checks each connection's queue every millisecond even while it is empty, which
 * costs 3–4 % of a core and warns of negative timeouts. Without pending requests and throttling
 * there is nothing to check; enqueueing and answering check by themselves.
 */
function stopIdleTimers(): void {
  if (idleTimersStopped) return;
  idleTimersStopped = true;
  const require = createRequire(import.meta.url);
  const { prototype } = require('kafkajs/src/network/requestQueue') as { prototype: RequestQueue };
  const schedule = prototype.scheduleCheckPendingRequests;
  prototype.scheduleCheckPendingRequests = function (this: RequestQueue) {
    if (this.pending.length === 0 && this.throttledUntil <= Date.now()) return;
    schedule.call(this);
  };
}
