import type { GateReader } from '../../services/operator/gates.ts';

/** Gates that say what the ledger says, for tests whose subject is MySQL alone. */
export const gatesAtRest: GateReader = {
  read: async () => ({
    loaded: true,
    state: 'open',
    available: 0n,
    ledgerAvailable: 0n,
    pendingOrders: 0n,
    oldestPendingAgeMs: 0n,
    epoch: 1n,
  }),
  close() {},
};
