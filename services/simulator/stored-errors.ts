import type { Database } from './database.ts';

/** Calls that were answered 500 under their idempotency key, and will be again. */
export interface StoredErrors {
  has(call: string, nowMs: number): boolean;
  add(call: string, nowMs: number): void;
}

/** Providers keep what they answered under a key for a day. */
const keptMs = 86_400_000;

export function createStoredErrors({ sqlite }: Database): StoredErrors {
  const find = sqlite.prepare('SELECT 1 FROM stored_errors WHERE call = ? AND create_ms > ?');
  const insert = sqlite.prepare(
    'INSERT OR REPLACE INTO stored_errors (call, create_ms) VALUES (?, ?)',
  );
  const forget = sqlite.prepare('DELETE FROM stored_errors WHERE create_ms <= ?');
  return {
    has: (call, nowMs) => find.get(call, nowMs - keptMs) !== undefined,
    add(call, nowMs) {
      forget.run(nowMs - keptMs);
      insert.run(call, nowMs);
    },
  };
}
