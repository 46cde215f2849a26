import { setTimeout as sleep } from 'node:timers/promises';
import { Kafka, logLevel } from 'kafkajs';
import { Failure, messageOf } from './failure.ts';

const orderEventsPartitions = 12;
/** The broker's own default, so that a cluster of three replicates and a single broker does not have to. */
const brokersReplication = -1;
const triesMax = 20;
const tryEveryMs = 500;

/** Creates the topics that the services publish to, where they are absent. A broker that has just started may need some tries. */
export async function createTopics(brokers: string, topicPrefix: string): Promise<string[]> {
  const topic = `${topicPrefix}sluice.order.events`;
  const admin = new Kafka({
    clientId: 'sluice-local',
    brokers: brokers.split(',').map((broker) => broker.trim()),
    retry: { retries: 2 },
    logLevel: logLevel.NOTHING,
  }).admin();
  try {
    for (let i = 1; ; i += 1) {
      try {
        await admin.connect();
        const existing = await admin.listTopics();
        if (!existing.includes(topic)) {
          await admin.createTopics({
            topics: [
              {
                topic,
                numPartitions: orderEventsPartitions,
                replicationFactor: brokersReplication,
              },
            ],
            waitForLeaders: true,
          });
        }
        return [topic];
      } catch (error) {
        if (i === triesMax) {
          throw new Failure(
            `The topic ${topic} could not be created on Kafka at ${brokers}: ${messageOf(error)}.`,
            [],
            error,
          );
        }
        await sleep(tryEveryMs);
      }
    }
  } finally {
    await admin.disconnect();
  }
}
