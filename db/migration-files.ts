import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';

export type Migration = {
  version: number;
  /** 000001_orders.sql */
  fileName: string;
  /** Relative to the checkout, for sentences. */
  path: string;
  /** SHA-256 of the content, in hex. */
  checksum: string;
  sql: string;
};

const fileNamePattern = /^(\d{6})_[a-z0-9_]+\.sql$/;
const placeholder = '{{table}}';

/** The migrations of a folder by ascending number. Throws on a file that is named otherwise and on two of one number. */
export async function readMigrations(dir: string): Promise<Migration[]> {
  const migrations: Migration[] = [];
  for (const fileName of (await readdir(dir)).sort()) {
    const path = relative(resolve(import.meta.dirname, '..'), join(dir, fileName));
    const version = Number(fileNamePattern.exec(fileName)?.[1] ?? Number.NaN);
    if (!(version > 0)) throw new Error(`${path} is not named like 000001_orders.sql.`);
    if (migrations.at(-1)?.version === version) {
      throw new Error(`${path} has the same number as ${migrations.at(-1)?.fileName}.`);
    }
    const sql = await readFile(join(dir, fileName), 'utf8');
    const checksum = createHash('sha256').update(sql).digest('hex');
    migrations.push({ version, fileName, path, checksum, sql });
  }
  return migrations;
}

/** The statements of a file, those with {{table}} once for each of the database's tables. Lines that are only a comment are left out. */
export function statementsOf(migration: Migration, tables: number): string[] {
  const code = migration.sql
    .split(/\r?\n/)
    .filter((line) => !line.trimStart().startsWith('--'))
    .join('\n');
  return code
    .split(/;[ \t]*(?:\n|$)/)
    .map((statement) => statement.trim())
    .filter((statement) => statement !== '')
    .flatMap((statement) => perTable(statement, tables));
}

function perTable(statement: string, tables: number): string[] {
  if (!statement.includes(placeholder)) return [statement];
  return Array.from({ length: tables }, (_, index) =>
    statement.replaceAll(placeholder, String(index).padStart(2, '0')),
  );
}
