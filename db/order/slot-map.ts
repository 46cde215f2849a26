import type { Connection, RowDataPacket } from 'mysql2/promise';

/** Logical slots; fixed for ever, because order ids carry the slot. */
export const slotCount = 1024;

/** How many order databases there are and how many tables each kind has in one of them. */
export type OrderShards = { databases: number; tables: number };

/** Where a slot lives. */
export type SlotPlace = readonly [database: number, table: number];

const firstVersion = 1;
const mapRowId = 1;
const duplicateKey = 1062;

/** The map that a new installation starts with: neighbouring slots go to different databases, so that load spreads. */
export function initialSlots({ databases, tables }: OrderShards): SlotPlace[] {
  return Array.from({ length: slotCount }, (_, slot) => [
    slot % databases,
    Math.floor(slot / databases) % tables,
  ]);
}

/**
 * Gives an order database its slot map, if it has none.
 * Throws when the database was laid out differently or is another one of the order databases than it is used as,
 * naming both: going on would look for orders where they are not.
 */
export async function seedSlotMap(
  connection: Connection,
  shards: OrderShards,
  databaseIndex: number,
): Promise<void> {
  if (
    !(shards.databases >= 1 && shards.tables >= 1 && shards.databases * shards.tables <= slotCount)
  )
    throw new Error(
      `${shards.databases}x${shards.tables} order shards: at least 1x1 and at most ${slotCount} tables in all.`,
    );
  if (!(await readRow(connection))) await insertRow(connection, shards, databaseIndex);
  const stored = (await readRow(connection))!;
  if (stored.slot_databases !== shards.databases || stored.slot_tables !== shards.tables)
    throw new Error(
      `Order database ${databaseIndex} is laid out as ${stored.slot_databases}x${stored.slot_tables}` +
        ` (databases x tables), but ${shards.databases}x${shards.tables} is configured.`,
    );
  if (stored.database_index !== databaseIndex)
    throw new Error(
      `This is order database ${stored.database_index}, but it is configured as order database ${databaseIndex}.`,
    );
}

async function readRow(connection: Connection): Promise<RowDataPacket | undefined> {
  const [rows] = await connection.query<RowDataPacket[]>(
    'SELECT database_index, slot_databases, slot_tables FROM slot_map WHERE id = ?',
    [mapRowId],
  );
  return rows[0];
}

async function insertRow(connection: Connection, shards: OrderShards, index: number) {
  try {
    await connection.query(
      'INSERT INTO slot_map (id, version, database_index, slot_databases, slot_tables, slots) VALUES (?, ?, ?, ?, ?, ?)',
      [
        mapRowId,
        firstVersion,
        index,
        shards.databases,
        shards.tables,
        JSON.stringify(initialSlots(shards)),
      ],
    );
  } catch (error) {
    // Another process seeded it in between; what it stored is compared next.
    if ((error as { errno?: number }).errno !== duplicateKey) throw error;
  }
}
