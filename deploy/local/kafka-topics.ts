import { setTimeout as sleep } from 'node:timers/promises';
import { createEventTopics, orderEventsTopic } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { Failure, messageOf } from './failure.ts';

/** The broker's own default, so that a cluster of three replicates and a single broker does not have to. */
const brokersReplication = -1;
const triesMax = 20;
const tryEveryMs = 500;

/** Creates the events' topics where they are absent and answers the main one. A broker that has just started may need some tries. */
export async function createTopics(
  brokers: string,
  topicPrefix: string,
  signal: AbortSignal,
): Promise<string> {
  const topic = orderEventsTopic(topicPrefix);
  const names = brokers.split(',').map((broker) => broker.trim());
  // The client's own complaints about a broker that is not ready yet would only worry.
  const log = createLog('local', 'silent');
  for (let i = 1; ; i += 1) {
    try {
      await createEventTopics(names, topicPrefix, log, brokersReplication);
      return topic;
    } catch (error) {
      if (i === triesMax || signal.aborted) {
        throw new Failure(
          `The topic ${topic} could not be created on Kafka at ${brokers}: ${messageOf(error)}.`,
          [],
          error,
        );
      }
      await sleep(tryEveryMs);
    }
  }
}
