import { migrateAll } from '../../db/migrate.ts';
import { Failure, messageOf } from './failure.ts';
import { createTopics } from './kafka-topics.ts';
import type { ManagedProcess } from './process.ts';
import { type ServicesOptions, startServices } from './services.ts';

/** From running servers to running services: topics, schema, processes; answers the services. Used by `npm start` and the benchmark. */
export async function startSystem(options: ServicesOptions): Promise<ManagedProcess[]> {
  const { terminal, addresses, supervisor } = options;
  await terminal.step(
    'topics',
    () => createTopics(addresses.kafkaBrokers, options.topicPrefix, supervisor.signal),
    (topic) => topic,
  );
  await terminal.step('schema', migrateSchema(options), (applied) =>
    applied === 0 ? 'up to date' : `${applied} migrations applied`,
  );
  if (supervisor.signal.aborted) throw new Failure('The start was interrupted.');
  return await startServices(options);
}

function migrateSchema(options: ServicesOptions) {
  return async (): Promise<number> => {
    let applied = 0;
    try {
      await migrateAll({
        mysqlUrls: options.addresses.mysqlUrls.split(',').map((url) => url.trim()),
        databasePrefix: options.databasePrefix,
        orderShards: options.orderShards,
        log: () => {
          applied += 1;
        },
      });
    } catch (error) {
      throw new Failure(`The schema could not be migrated: ${messageOf(error)}`, [], error);
    }
    return applied;
  };
}
