import type { Connection, RowDataPacket } from 'mysql2/promise';
import { createConnection } from 'mysql2/promise';
import { kindOfVersion, type Queryable, setUpSession } from '../services/runtime/mysql-session.ts';
import {
  type DatabaseKind,
  type DatabasesOptions,
  databaseKinds,
  databasesOf,
  type TargetDatabase,
} from './databases.ts';
import { type Migration, readMigrations, statementsOf } from './migration-files.ts';
import { seedSlotMap } from './order/slot-map.ts';

/**
 * Brings every database to the newest schema.
 *
 * Files are db/<kind>/migrations/NNNNNN_name.sql, numbered, append-only, with a comment that says why. Statements end
 * with `;` at the end of a line. MySQL cannot undo DDL, so a file is recorded after it ran whole, and each statement must be
 * idempotent: a run that was cut short repeats its file. That is IF NOT EXISTS for tables; a column or key that an ALTER adds
 * and that is there already counts as added, because MySQL, unlike MariaDB, has no IF NOT EXISTS for it.
 * In files of `order`, a statement that contains {{table}} runs once for every table of the database, with {{table}} replaced
 * by the table's two-digit number: `CREATE TABLE IF NOT EXISTS orders_{{table}} …` makes orders_00, orders_01 and so on. There
 * is no other placeholder.
 */
export type MigrateOptions = DatabasesOptions & {
  log?: (line: string) => void;
  /** Where order/migrations and the others are; default: this folder. */
  migrationsDir?: string;
  /** Gives a migrated order database its first slot map; tests of other schemas replace it. */
  seedSlotMap?: typeof seedSlotMap;
};

/** Statements wait for running transactions at most this long; DDL would otherwise wait a day for a metadata lock. */
const lockWaitSeconds = 60;
/** Between two statements of a migration. */
const restSecondsMax = 60;
/** The column or key that a statement adds is there: the statement ran before. */
const alreadyAddedErrnos = new Set([1060, 1061]);
/** Several starters may migrate at once: the others wait for the first. */
const turnWaitSeconds = 120;

/** Creates and migrates all databases. May run any number of times and in several processes at once. Throws on the first failure. */
export async function migrateAll(options: MigrateOptions): Promise<void> {
  const dir = options.migrationsDir ?? import.meta.dirname;
  const migrations = new Map<DatabaseKind, Migration[]>();
  for (const kind of databaseKinds) {
    migrations.set(kind, await readMigrations(`${dir}/${kind}/migrations`));
  }
  for (const database of databasesOf(options)) {
    await migrateDatabase(database, migrations.get(database.kind) ?? [], options);
  }
}

async function migrateDatabase(
  database: TargetDatabase,
  migrations: readonly Migration[],
  options: MigrateOptions,
): Promise<void> {
  const connection = await createConnection({ uri: database.url, timezone: 'Z' });
  try {
    await setUp(connection, database);
    await takeTurn(connection, database.name);
    await connection.query(
      `CREATE DATABASE IF NOT EXISTS \`${database.name}\` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`,
    );
    await connection.query(`USE \`${database.name}\``);
    const applied = await readApplied(connection);
    for (const migration of pendingOf(migrations, applied, database)) {
      await apply(connection, migration, database.tables);
      options.log?.(`${database.name}: ${migration.fileName}`);
    }
    await requireInnoDb(connection, database);
    if (database.kind === 'order') {
      const seed = options.seedSlotMap ?? seedSlotMap;
      await seed(connection, options.orderShards, database.index);
    }
  } finally {
    // Ends the session and with it the lock.
    await connection.end();
  }
}

/** Whatever the server's own defaults are, tables are made as the services rely on them. @throws ServerUnfit */
async function setUp(connection: Connection, { kind, url }: TargetDatabase): Promise<void> {
  const [rows] = await connection.query<RowDataPacket[]>('SELECT VERSION() AS version');
  const needs = { isReadOnly: false, restSecondsMax, isForeign: kind === 'warehouse' };
  const server = kindOfVersion(String(rows[0]?.version));
  await setUpSession(connection as Queryable, server, needs, new URL(url).host);
  await connection.query(`SET SESSION lock_wait_timeout = ${lockWaitSeconds}`);
}

/** A table of another engine has no transactions, and no promise would hold. */
async function requireInnoDb(
  connection: Connection,
  { kind, name }: TargetDatabase,
): Promise<void> {
  if (kind === 'warehouse') return;
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT table_name AS name, engine AS engine FROM information_schema.tables
     WHERE table_schema = ? AND table_type = 'BASE TABLE' AND engine <> 'InnoDB'`,
    [name],
  );
  const [other] = rows;
  if (other === undefined) return;
  throw new Error(
    `The table ${name}.${other.name} is of the engine ${other.engine}: change it with ALTER TABLE … ENGINE = InnoDB.`,
  );
}

/** The lock belongs to the server, not to a database, so its name carries the database's. */
async function takeTurn(connection: Connection, databaseName: string): Promise<void> {
  const [rows] = await connection.query<RowDataPacket[]>('SELECT GET_LOCK(?, ?) AS taken', [
    `sluice_migrate_${databaseName}`.slice(0, 64),
    turnWaitSeconds,
  ]);
  if (rows[0]?.taken !== 1) {
    throw new Error(
      `Another migration of ${databaseName} did not finish within ${turnWaitSeconds} s.`,
    );
  }
}

type Applied = { version: number; name: string; checksum: string; tableCount: number };

async function readApplied(connection: Connection): Promise<Map<number, Applied>> {
  await connection.query(`
    CREATE TABLE IF NOT EXISTS schema_migrations (
      version INT UNSIGNED NOT NULL PRIMARY KEY,
      name VARCHAR(200) NOT NULL,
      checksum CHAR(64) NOT NULL,
      table_count INT UNSIGNED NOT NULL,
      applied_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)
    )`);
  const [rows] = await connection.query<RowDataPacket[]>(
    'SELECT version, name, checksum, table_count AS tableCount FROM schema_migrations',
  );
  return new Map((rows as Applied[]).map((row) => [row.version, row]));
}

/** The files to run now. A file that changed after it ran, or that was inserted before one that ran, is an error naming it. */
function pendingOf(
  migrations: readonly Migration[],
  applied: ReadonlyMap<number, Applied>,
  database: TargetDatabase,
): Migration[] {
  const newest = Math.max(0, ...applied.keys());
  return migrations.filter((migration) => {
    const before = applied.get(migration.version);
    if (before === undefined) {
      if (migration.version > newest) return true;
      throw new Error(
        `${migration.path} is numbered before migrations that ${database.name} has already: give it the next number.`,
      );
    }
    if (before.checksum !== migration.checksum) {
      throw new Error(
        `${migration.path} was changed after it was applied to ${database.name}: restore it and write the change as a new migration.`,
      );
    }
    // More tables than when it ran: its statements are idempotent, so running it again makes the missing ones.
    return before.tableCount < database.tables;
  });
}

async function apply(connection: Connection, migration: Migration, tables: number): Promise<void> {
  for (const statement of statementsOf(migration, tables)) {
    try {
      await connection.query(statement);
    } catch (error) {
      if (alreadyAddedErrnos.has((error as { errno?: number }).errno ?? 0)) continue;
      const start = statement.slice(0, 120).replaceAll(/\s+/g, ' ');
      throw new Error(`${migration.path} failed at "${start}…": ${(error as Error).message}`, {
        cause: error,
      });
    }
  }
  await connection.query(
    `INSERT INTO schema_migrations (version, name, checksum, table_count) VALUES (?, ?, ?, ?)
     ON DUPLICATE KEY UPDATE table_count = VALUES(table_count)`,
    [migration.version, migration.fileName, migration.checksum, tables],
  );
}
