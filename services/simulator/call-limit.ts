import type { CallKind } from './faults.ts';

/** How many calls of each kind the simulator takes in a second. */
export interface CallLimit {
  /** Whether one more call may go at a limit of `perSecond`; 0 is none. */
  mayGo(kind: CallKind, perSecond: number): boolean;
}

interface Bucket {
  calls: number;
  atMs: number;
}

/** A bucket of calls for each kind, as providers have: a second's worth may come at once. */
export function createCallLimit(nowMs = () => performance.now()): CallLimit {
  const buckets = new Map<CallKind, Bucket>();
  return {
    mayGo(kind, perSecond) {
      if (perSecond === 0) {
        buckets.delete(kind);
        return true;
      }
      const atMs = nowMs();
      const before = buckets.get(kind) ?? { calls: perSecond, atMs };
      const added = ((atMs - before.atMs) / 1_000) * perSecond;
      const calls = Math.min(perSecond, before.calls + added);
      const mayGo = calls >= 1;
      buckets.set(kind, { calls: mayGo ? calls - 1 : calls, atMs });
      return mayGo;
    },
  };
}
