import type { Admin } from 'kafkajs';
import type { Counter, Gauge } from 'prom-client';
import { createKafka } from './kafka.ts';
import type { Log } from './log.ts';
import { type Loop, startLoop } from './loop.ts';
import type { Metrics } from './metrics.ts';

export interface ConsumerMetrics {
  /** Messages of the topic that the group has not committed yet. */
  readonly lag: Gauge<'group'>;
  readonly deadLetters: Counter<'group'>;
  /** Events that fail and are tried again. */
  readonly failing: Gauge<'group'>;
  /** Messages that are to be dead letters, which Kafka does not take now. */
  readonly unburied: Gauge<'group'>;
}

export function createConsumerMetrics(metrics: Metrics): ConsumerMetrics {
  return {
    lag: metrics.gauge('consumer_lag', 'Messages that the group has not committed yet', ['group']),
    deadLetters: metrics.counter('dead_letters_total', 'Messages given up, by group', ['group']),
    failing: metrics.gauge('events_failing', 'Events that fail and are tried again, by group', [
      'group',
    ]),
    unburied: metrics.gauge(
      'dead_letters_unwritten',
      'Messages to be given up that Kafka does not take as dead letters, by group',
      ['group'],
    ),
  };
}

const lookEveryMs = 5_000;

export interface ConsumerLagOptions {
  readonly groupId: string;
  readonly brokers: readonly string[];
  readonly topic: string;
  readonly gauge: Gauge<'group'>;
  readonly log: Log;
}

/**
 * Asks Kafka how far a group is behind. The broker's word, not the consumer's: a consumer that is
 * stuck would go on reporting what it knew when it last fetched.
 */
export function startConsumerLag(options: ConsumerLagOptions): Loop {
  const { groupId, brokers, topic, gauge, log } = options;
  const kafka = createKafka(`${groupId}-lag`, brokers, log);
  let admin: Admin | undefined;
  async function connect(): Promise<Admin> {
    const fresh = kafka.admin();
    await fresh.connect();
    return fresh;
  }
  async function forget(): Promise<void> {
    await admin?.disconnect();
    admin = undefined;
  }
  const loop = startLoop({
    name: `lag of ${groupId}`,
    intervalMs: lookEveryMs,
    log,
    async run() {
      try {
        admin ??= await connect();
        gauge.set({ group: groupId }, await lagOf(admin, groupId, topic));
      } catch (error) {
        // A partition may have another leader now, and a client goes on asking the one it knows.
        await forget();
        throw error;
      }
    },
  });
  return {
    wake: loop.wake,
    async stop() {
      await loop.stop();
      await forget();
    },
  };
}

async function lagOf(admin: Admin, groupId: string, topic: string): Promise<number> {
  // One after the other: what still runs when the other fails would connect again, for ever.
  const [committed] = await admin.fetchOffsets({ groupId, topics: [topic] });
  const ends = await admin.fetchTopicOffsets(topic);
  const reached = new Map(committed?.partitions.map((each) => [each.partition, each.offset]));
  let lag = 0n;
  for (const { partition, high, low } of ends) {
    const offset = BigInt(reached.get(partition) ?? -1);
    // A group that has committed nothing, or whose place is gone, begins with what is there.
    const behind = BigInt(high) - (offset < BigInt(low) ? BigInt(low) : offset);
    // A topic that was created anew is shorter than the place that the group had.
    if (behind > 0n) lag += behind;
  }
  return Number(lag);
}
