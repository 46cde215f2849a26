import { DatabaseSync } from 'node:sqlite';

/**
 * A session with a row in `debits` is in processing, whatever its own row says: stores from before debits stay as they are.
 * Amounts are text: SQLite's driver reads integers as numbers, which are not exact beyond 2^53.
 */
const schema = `
  CREATE TABLE IF NOT EXISTS sessions (
    session_id TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    payment_id TEXT NOT NULL,
    order_id TEXT NOT NULL,
    currency_code TEXT NOT NULL,
    minor_units TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'failed', 'paid', 'closed')),
    failure TEXT NOT NULL,
    captured_currency_code TEXT NOT NULL,
    captured_minor_units TEXT NOT NULL,
    create_ms INTEGER NOT NULL,
    expire_ms INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS sessions_that_end ON sessions (expire_ms)
    WHERE status IN ('open', 'failed');
  CREATE INDEX IF NOT EXISTS sessions_by_end ON sessions (expire_ms);
  CREATE TABLE IF NOT EXISTS debits (
    session_id TEXT PRIMARY KEY REFERENCES sessions,
    settle_ms INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS debits_to_settle ON debits (settle_ms);
  CREATE TABLE IF NOT EXISTS stored_errors (
    call TEXT PRIMARY KEY,
    create_ms INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS stored_errors_by_time ON stored_errors (create_ms);
  CREATE TABLE IF NOT EXISTS refunds (
    reference TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL REFERENCES sessions,
    refund_id TEXT NOT NULL,
    currency_code TEXT NOT NULL,
    minor_units TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed')),
    failure TEXT NOT NULL,
    create_ms INTEGER NOT NULL,
    settle_ms INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS refunds_of_session ON refunds (session_id);
  CREATE INDEX IF NOT EXISTS refunds_to_settle ON refunds (settle_ms) WHERE status = 'pending';
  CREATE TABLE IF NOT EXISTS webhooks (
    webhook_id INTEGER PRIMARY KEY,
    body TEXT NOT NULL,
    create_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    claimed INTEGER NOT NULL DEFAULT 0
  ) STRICT;
  CREATE INDEX IF NOT EXISTS webhooks_due ON webhooks (claimed, due_ms, webhook_id);
  CREATE TABLE IF NOT EXISTS knobs (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
`;

/** The simulator's store. */
export interface Database {
  readonly sqlite: DatabaseSync;
  /** Runs `work`, synchronously, in one transaction: all of it or, if it throws, nothing. */
  transaction<Result>(work: () => Result): Result;
  close(): void;
}

/**
 * Opens the store, and creates it where there is none.
 *
 * @param file a path, or `:memory:`
 * @throws Error if another simulator has the file open for writing, or it is no SQLite file
 */
export function openDatabase(file: string): Database {
  const sqlite = new DatabaseSync(file, { timeout: 5_000 });
  // A transaction survives the death of the process; only a power cut may lose the last ones.
  sqlite.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;');
  sqlite.exec(schema);
  const begin = sqlite.prepare('BEGIN IMMEDIATE');
  const commit = sqlite.prepare('COMMIT');
  const rollback = sqlite.prepare('ROLLBACK');
  return {
    sqlite,
    transaction(work) {
      begin.run();
      try {
        const result = work();
        commit.run();
        return result;
      } catch (error) {
        rollback.run();
        throw error;
      }
    },
    close: () => sqlite.close(),
  };
}
