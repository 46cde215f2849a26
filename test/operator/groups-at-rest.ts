import { eventGroups, type GroupReader } from '../../services/operator/groups.ts';

/** Groups that have consumed everything, for tests that fill the databases without Kafka. */
export const groupsAtRest: GroupReader = {
  read: async () =>
    eventGroups.map((group) => ({ group, eventsBehind: 0n, consumedAgeSeconds: 0 })),
  close: async () => undefined,
};
