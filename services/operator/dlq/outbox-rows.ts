import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import { OutboxBatch } from '../../../gen/sluice/event/v1/outbox.ts';
import type { OperatorConfig } from '../config.ts';
import { databaseFailure } from '../could-not-look.ts';
import { openDatabasePool, serverOf } from '../stores.ts';

/** Larger rows are not read for the orders that are in them. */
const payloadBytesMax = 65_536;
const orderIdsMax = 20;

/** Events of the outbox that could not be published and were set aside. */
export interface OutboxRowAside {
  /** Its order database, and its place there. */
  readonly database: string;
  readonly id: string;
  /** When it was set aside. */
  readonly time: Date;
  readonly reason: string;
  readonly bytes: number;
  /** Some of the orders that its events are about, where it can be read. */
  readonly orderIds: readonly string[];
  /** Whether the relay tries it again by itself: Kafka may take it later, or it was replayed. */
  readonly waits: boolean;
}

/** The newest rows of all order databases, oldest of them first. @throws CouldNotLook */
export async function listOutboxRows(
  config: OperatorConfig,
  limit: number,
): Promise<OutboxRowAside[]> {
  const found = await inEachDatabase(config, { write: false }, (database, rows) =>
    rows(`ORDER BY id DESC LIMIT ${limit}`).then((all) => all.map((row) => toRow(database, row))),
  );
  return inOrder(found).slice(-limit);
}

/**
 * Has the relay publish the oldest rows again that wait for an operator; one that fails again is set
 * aside again.
 *
 * @returns the rows that are tried again, or would be
 * @throws CouldNotLook
 */
export async function replayOutboxRows(
  config: OperatorConfig,
  { limit, dryRun }: { readonly limit: number; readonly dryRun: boolean },
): Promise<OutboxRowAside[]> {
  const found = await inEachDatabase(config, { write: false }, (database, rows) =>
    rows(`WHERE next_time IS NULL ORDER BY id LIMIT ${limit}`).then((all) =>
      all.map((row) => toRow(database, row)),
    ),
  );
  const chosen = inOrder(found).slice(0, limit);
  if (dryRun || chosen.length === 0) return chosen;
  await inEachDatabase(config, { write: true }, async (database, _, change) => {
    const ids = chosen.filter((row) => row.database === database).map(({ id }) => id);
    if (ids.length === 0) return [];
    await change(
      `UPDATE outbox_set_aside SET next_time = NOW(3), attempts = 0
       WHERE next_time IS NULL AND id IN (${ids})`,
    );
    return [];
  });
  return chosen;
}

type Rows = (tail: string) => Promise<RowDataPacket[]>;
type Change = (sql: string) => Promise<void>;

async function inEachDatabase(
  { mysqlUrls, databasePrefix, shards }: OperatorConfig,
  { write }: { readonly write: boolean },
  work: (database: string, rows: Rows, change: Change) => Promise<OutboxRowAside[]>,
): Promise<OutboxRowAside[]> {
  const all: OutboxRowAside[] = [];
  for (let index = 0; index < shards.databases; index += 1) {
    const url = mysqlUrls[index % mysqlUrls.length] as string;
    const database = `${databasePrefix}_order_${index}`;
    const pool = openDatabasePool(url, database, { write });
    const rows: Rows = async (tail) => {
      const [found] = await pool.query<RowDataPacket[]>(
        `SELECT id, set_aside_time, reason, next_time, LENGTH(payload) AS bytes,
           IF(LENGTH(payload) <= ${payloadBytesMax}, payload, NULL) AS payload
         FROM outbox_set_aside ${tail}`,
      );
      return found;
    };
    const change: Change = async (sql) => void (await pool.query<ResultSetHeader>(sql));
    try {
      all.push(...(await work(database, rows, change)));
    } catch (error) {
      throw databaseFailure(error, serverOf(url), database);
    } finally {
      await pool.end();
    }
  }
  return all;
}

function toRow(database: string, row: RowDataPacket): OutboxRowAside {
  return {
    database,
    id: String(row.id),
    time: row.set_aside_time,
    reason: row.reason,
    bytes: Number(row.bytes),
    orderIds: orderIdsIn(row.payload),
    waits: row.next_time !== null,
  };
}

function orderIdsIn(payload: Buffer | null): string[] {
  if (payload === null) return [];
  try {
    const { messages } = OutboxBatch.decode(payload);
    return messages.slice(0, orderIdsMax).map(({ key }) => String(key));
  } catch {
    return [];
  }
}

function inOrder(rows: readonly OutboxRowAside[]): OutboxRowAside[] {
  return [...rows].sort((a, b) => a.time.getTime() - b.time.getTime());
}
