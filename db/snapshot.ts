import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Connection, RowDataPacket } from 'mysql2/promise';
import { createConnection } from 'mysql2/promise';
import { startMariaDb } from '../deploy/local/mariadb.ts';
import { freePort } from '../deploy/local/port.ts';
import {
  type DatabaseKind,
  type DatabasesOptions,
  databasesOf,
  type TargetDatabase,
} from './databases.ts';
import { migrateAll } from './migrate.ts';

const mebibyte = 1024 * 1024;
const databasePrefix = 'snapshot';

/** What the migrations make of an empty server, with one order database of one table. */
export type SchemaSnapshot = {
  /** For db/schema.sql: every CREATE TABLE, sorted, without what differs from run to run. */
  sql: string;
  columns: SchemaColumn[];
};

export type SchemaColumn = {
  database: DatabaseKind;
  table: string;
  column: string;
  /** As the server writes it, without display widths: bigint unsigned, varbinary(128), datetime(3). */
  type: string;
  isNullable: boolean;
};

/** Migrates a throw-away MariaDB and reads back what came of it. Undefined where the machine has MySQL, which writes its tables differently. */
export async function takeSchemaSnapshot(): Promise<SchemaSnapshot | undefined> {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-schema-'));
  try {
    const server = await startMariaDb({
      dir,
      port: await freePort(),
      bufferPoolBytes: 32 * mebibyte,
      logFileBytes: 16 * mebibyte,
    });
    try {
      await migrateAll(installation(server.url));
      return await readSnapshot(server.url);
    } finally {
      await server.stop();
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function installation(url: string): DatabasesOptions {
  return { mysqlUrls: [url], databasePrefix, orderShards: { databases: 1, tables: 1 } };
}

function snapshotted(url: string): TargetDatabase[] {
  return databasesOf(installation(url)).sort((a, b) => (a.kind < b.kind ? -1 : 1));
}

/** The tables whose definitions differ, each as stock.skus; empty when the snapshots are equal. */
export function differingTables(committed: string, current: string): string[] {
  const [before, after] = [tablesOf(committed), tablesOf(current)];
  const names = new Set([...before.keys(), ...after.keys()]);
  return [...names].filter((name) => before.get(name) !== after.get(name)).sort();
}

async function readSnapshot(url: string): Promise<SchemaSnapshot | undefined> {
  const connection = await createConnection({ uri: url });
  try {
    const [version] = await connection.query<RowDataPacket[]>('SELECT VERSION() AS version');
    if (!String(version[0]?.version).includes('MariaDB')) return undefined;
    const parts: string[] = [];
    const columns: SchemaColumn[] = [];
    for (const { kind: database, name } of snapshotted(url)) {
      for (const table of await tableNames(connection, name)) {
        parts.push(`-- ${database}.${table}\n${await createStatement(connection, name, table)}\n`);
        columns.push(...(await readColumns(connection, { database, name, table })));
      }
    }
    return { sql: `${header}\n${parts.join('\n')}`, columns };
  } finally {
    await connection.end();
  }
}

const header = `-- The schema that the migrations lead to, for reading and for the checks. Written by "npm run gen": do not edit.
-- Order databases have the tables with a number once per table of the shard; here is the first.
`;

async function tableNames(connection: Connection, database: string): Promise<string[]> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT table_name AS name FROM information_schema.tables
     WHERE table_schema = ? AND table_name <> 'schema_migrations' ORDER BY table_name`,
    [database],
  );
  return rows.map((row) => String(row.name));
}

async function createStatement(
  connection: Connection,
  database: string,
  table: string,
): Promise<string> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SHOW CREATE TABLE \`${database}\`.\`${table}\``,
  );
  return `${String(rows[0]?.['Create Table']).replace(/ AUTO_INCREMENT=\d+/, '')};`;
}

async function readColumns(
  connection: Connection,
  { database, name, table }: { database: DatabaseKind; name: string; table: string },
): Promise<SchemaColumn[]> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT column_name AS name, column_type AS type, is_nullable AS nullable
     FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position`,
    [name, table],
  );
  return rows.map((row) => ({
    database,
    table,
    column: String(row.name),
    type: String(row.type).replace(/^((?:tiny|small|medium|big)?int)\(\d+\)/, '$1'),
    isNullable: row.nullable === 'YES',
  }));
}

function tablesOf(sql: string): Map<string, string> {
  const tables = new Map<string, string>();
  for (const part of sql.split(/^-- (?=[a-z]+\.)/m).slice(1)) {
    const end = part.indexOf('\n');
    tables.set(part.slice(0, end), part.slice(end).trim());
  }
  return tables;
}
