import type {
  PoolOptions,
  PoolConnection as PromiseConnection,
  RowDataPacket,
} from 'mysql2/promise';
import { createPool, type Pool } from '../runtime/mysql.ts';
import type { OperatorConfig } from './config.ts';
import { CouldNotLook, databaseFailure } from './could-not-look.ts';

const connectionsMax = 4;
/** Between two reads of one moment much may have to be compared, and nobody waits for our locks. */
const restSecondsMax = 60;
/** Longer than any statement of ours runs on a healthy server, the recounts of whole tables included. */
const statementMs = 600_000;

/** A row as its values, in the order of the statement's columns; numbers beyond 2^53 as strings. */
export type Row = readonly (string | number | Buffer | null)[];

/** One database, read only. Failures are `CouldNotLook`. */
export interface Database {
  readonly name: string;
  /** Where it is, without user and password. */
  readonly server: string;
  rows(sql: string): Promise<Row[]>;
  /** The same with names; times are Dates. */
  records(sql: string): Promise<Record<string, unknown>[]>;
  /** Several statements that all see one moment. */
  inSnapshot<Result>(
    work: (rows: (sql: string) => Promise<Row[]>) => Promise<Result>,
  ): Promise<Result>;
  close(): Promise<void>;
}

/** Every database of an installation. */
export interface Stores {
  readonly orders: readonly Database[];
  /** Tables of each kind in one order database. */
  readonly tables: number;
  readonly stock: Database;
  readonly payment: Database;
  readonly events: Database;
  readonly warehouse: Database;
  /** Where each of the 1,024 slots lives: [database, table]. */
  readonly slots: readonly (readonly [number, number])[];
  close(): Promise<void>;
}

/** Opens all databases for reading, and reads the slot map. @throws CouldNotLook */
export async function openStores(config: OperatorConfig): Promise<Stores> {
  const { mysqlUrls, databasePrefix: prefix, shards } = config;
  const first = mysqlUrls[0] as string;
  const orders = Array.from({ length: shards.databases }, (_, index) =>
    openDatabase(mysqlUrls[index % mysqlUrls.length] as string, `${prefix}_order_${index}`),
  );
  const stock = openDatabase(first, `${prefix}_stock`);
  const payment = openDatabase(first, `${prefix}_payment`);
  const events = openDatabase(first, `${prefix}_events`);
  const warehouse = openDatabase(config.warehouseUrl, `${prefix}_warehouse`);
  const all = [...orders, stock, payment, events, warehouse];
  const close = async (): Promise<void> => {
    await Promise.all(all.map((database) => database.close()));
  };
  try {
    const slots = await readSlots(orders, shards.tables);
    return { orders, tables: shards.tables, stock, payment, events, warehouse, slots, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** MySQL's time, and the moment `agoSeconds` before it, as DATETIME(3) texts; such texts sort by time. */
export async function readClock(
  database: Database,
  agoSeconds: number,
): Promise<{ now: string; before: string }> {
  const sql = `SELECT CONCAT(UTC_TIMESTAMP(3)), CONCAT(UTC_TIMESTAMP(3) - INTERVAL ${agoSeconds * 1_000_000} MICROSECOND)`;
  const [row] = await database.rows(sql);
  return { now: String(row?.[0]), before: String(row?.[1]).slice(0, 23) };
}

/** The numbers of the tables, as they stand in names. */
export function tableSuffixes({ tables }: Pick<Stores, 'tables'>): string[] {
  return Array.from({ length: tables }, (_, table) => String(table).padStart(2, '0'));
}

/** Opens one database; `write` only for what is meant to change it. */
export function openDatabasePool(url: string, database: string, { write = false } = {}): Pool {
  return createPool(url, { database, connectionsMax, readOnly: !write, restSecondsMax });
}

function openDatabase(url: string, name: string): Database {
  const pool = openDatabasePool(url, name);
  const server = serverOf(url);
  const failWith = (error: unknown): never => {
    throw databaseFailure(error, server, name);
  };
  return {
    name,
    server,
    rows: (sql) => readRows(pool, sql).catch(failWith),
    async records(sql) {
      const [rows] = await pool
        .query<RowDataPacket[]>({ sql, timeout: statementMs })
        .catch(failWith);
      return rows;
    },
    async inSnapshot(work) {
      const connection = await pool.getConnection().catch(failWith);
      try {
        await connection.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY');
        await connection.query('START TRANSACTION WITH CONSISTENT SNAPSHOT');
        const result = await work((sql) => readRows(connection, sql));
        await connection.query('COMMIT');
        connection.release();
        return result;
      } catch (error) {
        connection.destroy();
        return failWith(error);
      }
    },
    close: () => pool.end(),
  };
}

/** The server of a URL, for sentences. */
export function serverOf(url: string): string {
  const { hostname, port } = new URL(url);
  return `${hostname}:${port || '3306'}`;
}

async function readRows(from: Pool | PromiseConnection, sql: string): Promise<Row[]> {
  // `null` keeps the driver from searching long statements for placeholders.
  const options = { sql, rowsAsArray: true, timeout: statementMs, values: null };
  const [rows] = await from.query<RowDataPacket[][]>(options as PoolOptions & { sql: string });
  return rows as unknown as Row[];
}

async function readSlots(
  orders: readonly Database[],
  tables: number,
): Promise<(readonly [number, number])[]> {
  let newest: { version: number; slots: [number, number][] } | undefined;
  for (const database of orders) {
    const sql = 'SELECT version, slot_databases, slot_tables, slots FROM slot_map WHERE id = 1';
    const [row] = await database.rows(sql);
    if (row === undefined) {
      throw new CouldNotLook(
        `${database.name} has no slot map: migrate first (npm start does that).`,
      );
    }
    const [version, slotDatabases, slotTables, slots] = row as [number, number, number, string];
    if (slotDatabases !== orders.length || slotTables !== tables) {
      throw new CouldNotLook(
        `${database.name} is laid out as ${slotDatabases}x${slotTables}: set SLUICE_ORDER_SHARDS to that.`,
      );
    }
    if (newest === undefined || version > newest.version)
      newest = { version, slots: JSON.parse(slots) };
  }
  return newest?.slots ?? [];
}
