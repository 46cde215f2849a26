import type { PoolConnection, RowDataPacket } from 'mysql2/promise';

/** A list of keys in a statement: its columns, and where its text begins and ends. */
interface KeyList {
  readonly columns: readonly string[];
  readonly start: number;
  readonly end: number;
}

/** Columns that name a row of a big table, or few. */
const keyColumns = new Set(['order_id', 'payment_id', 'refund_id']);
const lists =
  /(?<![\w.])((?:\w+\.)?\w+|\(\s*\w+\s*,\s*\w+\s*\)) IN \(((?:[^()']|'[^']*'|\([^()]*\))*)\)/g;

/** The lists of keys that a statement has. */
export function keyListsOf(text: string): KeyList[] {
  return [...text.matchAll(lists)].flatMap((match) => {
    const [whole, left = '', values = ''] = match;
    const columns = left
      .replace(/[()\s]/g, '')
      .split(',')
      .map((name) => name.replace(/^\w+\./, ''));
    if (!keyColumns.has(columns[0] as string) || /SELECT/i.test(values)) return [];
    const end = match.index + whole.length - 1;
    return [{ columns, start: end - values.length, end }];
  });
}

/** The table that a statement reads or changes by its keys; undefined if it names more than one, or inserts. */
export function tableOf(text: string): string | undefined {
  if (!/^\s*(SELECT|UPDATE|DELETE)\b/i.test(text) || /\b(JOIN|UNION)\b|\bFROM \(/i.test(text))
    return undefined;
  return /\b(?:FROM|UPDATE) (\w+)/.exec(text)?.[1];
}

/** The statement with other keys. */
export function withKeys(text: string, keys: readonly Readonly<Record<string, string>>[]): string {
  let result = text;
  for (const { columns, start, end } of keyListsOf(text).toReversed()) {
    const values = keys.map((row) => {
      const tuple = columns.map((column) => row[column]);
      return tuple.length === 1 ? tuple[0] : `(${tuple.join(',')})`;
    });
    result = result.slice(0, start) + [...new Set(values)].join(',') + result.slice(end);
  }
  return result;
}

/** Keys of rows that are there. */
export async function someKeys(
  connection: PoolConnection,
  table: string,
  columns: readonly string[],
  count: number,
): Promise<Record<string, string>[]> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT ${columns.join(', ')} FROM ${table} WHERE ${columns[0]} IS NOT NULL ORDER BY ${columns[0]} LIMIT ${count}`,
  );
  return rows.map((row) => ({ ...row }) as Record<string, string>);
}

/** Runs a statement and undoes it. @returns rows that it went through, beside those that it looked up by a whole key */
export async function rowsGoneThrough(connection: PoolConnection, text: string): Promise<number> {
  await connection.query('START TRANSACTION');
  try {
    const before = await goneThrough(connection);
    await connection.query(text);
    return (await goneThrough(connection)) - before;
  } finally {
    await connection.query('ROLLBACK');
  }
}

/** Reading the counters goes through as many rows each time, or through none. */
async function goneThrough(connection: PoolConnection): Promise<number> {
  const [rows] = await connection.query<RowDataPacket[]>(
    "SHOW SESSION STATUS WHERE Variable_name IN ('Handler_read_next', 'Handler_read_prev', 'Handler_read_rnd_next', 'Handler_read_first', 'Handler_read_last')",
  );
  return rows.reduce((sum, { Value: value }) => sum + Number(value), 0);
}
