import { is } from 'drizzle-orm';
import { getTableConfig, MySqlTable } from 'drizzle-orm/mysql-core';
import type { DatabaseKind } from './databases.ts';
import type { SchemaColumn } from './snapshot.ts';

/**
 * Sentences on what the drizzle schema of one database kind says differently from the migrated database: missing and
 * surplus tables and columns, other types, other nullability. `schema` is the module's exports; functions that make
 * numbered tables are left to the exported first table. Empty when both agree.
 */
export function schemaDrift(
  database: DatabaseKind,
  schema: Record<string, unknown>,
  columns: readonly SchemaColumn[],
): string[] {
  const migrated = new Map(
    columns
      .filter((column) => column.database === database)
      .map((column) => [`${column.table}.${column.column}`, describe(column)]),
  );
  const declared = new Map<string, string>();
  for (const table of Object.values(schema)) {
    if (!is(table, MySqlTable)) continue;
    const { name, columns: declaredColumns } = getTableConfig(table);
    for (const column of declaredColumns) {
      const description = { type: column.getSQLType(), isNullable: !column.notNull };
      declared.set(`${name}.${column.name}`, describe(description));
    }
  }
  const drift: string[] = [];
  for (const [column, description] of declared) {
    const inDatabase = migrated.get(column) ?? 'absent';
    if (inDatabase !== description) {
      drift.push(
        `${database}.${column}: db/${database}/schema.ts says ${description}, the migrations make it ${inDatabase}`,
      );
    }
  }
  for (const column of migrated.keys()) {
    if (!declared.has(column)) {
      drift.push(
        `${database}.${column}: made by the migrations, absent from db/${database}/schema.ts`,
      );
    }
  }
  return drift;
}

/** drizzle's names for types that the server writes otherwise. */
const serverTypes: Record<string, string> = { boolean: 'tinyint', json: 'longtext' };

function describe({ type, isNullable }: { type: string; isNullable: boolean }): string {
  const lowered = type.toLowerCase().replaceAll(', ', ',');
  return `${serverTypes[lowered] ?? lowered}${isNullable ? ', nullable' : ''}`;
}
