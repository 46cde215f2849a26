import type { SqlServer } from '../support/sql-servers.ts';

/** A server with these writes every statement, with the rows that it examined, to mysql.slow_log. */
export const slowLogArguments = [
  '--log-output=TABLE',
  '--long-query-time=0',
  '--slow-query-log=ON',
];

/** What every statement may read, whatever it asks for. */
export const fewRows = 150;
/** A key may find an order, its lines and its history. */
const rowsPerLiteral = 4;
/** A statement that asks for a larger page must be known by name. */
const pageRowsMax = 2_500;

/** Commands that are no statements; MySQL writes the figures of the statement before to them. */
const noStatement = /^(Ping|Quit|Close stmt|Reset stmt|Init DB|Prepare)/;

/** Begins a statement that belongs to a test. */
export const notOurs = '/* test */';

/** A statement as it ran at its dearest. */
export interface Statement {
  readonly database: string;
  readonly text: string;
  readonly rowsExamined: number;
  readonly rowsSent: number;
  /** How often statements of this shape ran. */
  readonly runs: number;
}

/** Forgets what was recorded so far. */
export async function startRecording(server: SqlServer): Promise<void> {
  await server.sql('TRUNCATE TABLE mysql.slow_log');
}

/** The statements on databases of this prefix since then, by shape: the one of each that examined most. */
export async function recordedStatements(server: SqlServer, prefix: string): Promise<Statement[]> {
  const logged = await server.sql<{
    database_name: string;
    text: Buffer;
    examined: number;
    sent: number;
  }>(
    `SELECT db AS database_name, CAST(sql_text AS BINARY) AS text, rows_examined AS examined, rows_sent AS sent
     FROM mysql.slow_log WHERE db LIKE '${prefix}%'`,
  );
  const rows = logged
    .map((row) => ({ ...row, text: withoutLimitOfTime(row.text.toString('latin1')) }))
    .filter(({ text }) => !text.startsWith(notOurs) && !noStatement.test(text));
  const byShape = Map.groupBy(rows, ({ text }) => shapeOf(text));
  return [...byShape.values()].map((same) => {
    const dearest = same.reduce((most, each) => (excess(each) > excess(most) ? each : most));
    const { database_name: database, text, examined, sent } = dearest;
    return {
      database,
      text,
      rowsExamined: Number(examined),
      rowsSent: Number(sent),
      runs: same.length,
    };
  });
}

/** Rows beyond what the statement itself asks for, by its keys and its limit. */
function excess({ text, examined }: { text: string; examined: number }): number {
  return Number(examined) - rowsAskedFor(text);
}

/** What a statement may read by what it names: some rows for each literal, and those of its LIMIT and OFFSET. */
export function rowsAskedFor(text: string): number {
  const literals = text.match(/'(?:[^'\\]|\\.)*'|\bx'[0-9a-f]*'|\b\d+\b/gi)?.length ?? 0;
  const limits = text.matchAll(/\b(?:LIMIT|OFFSET)\s+(\d+)(?:\s*,\s*(\d+))?/gi);
  let rows = 0;
  for (const [, one = 0, two = 0] of limits) rows += Number(one) + Number(two);
  return fewRows + Math.min(rows, pageRowsMax) + rowsPerLiteral * literals;
}

/** The text without what differs from run to run. */
export function shapeOf(text: string): string {
  return text
    .replace(/\/\*.*?\*\//g, '')
    .replace(/x?'(?:[^'\\]|\\.)*'/gi, '?')
    .replace(/\b0x[0-9a-f]+\b|(?<![a-z_\d])-?\d+(?:\.\d+)?\b/gi, '?')
    .replace(/\s+/g, ' ')
    .replace(/(\(\?(, ?\?)*\))(, ?\(\?(, ?\?)*\))*/g, '(?)')
    .replace(/(WHEN \? THEN \? ?)+/g, 'WHEN ? THEN ? ')
    .trim();
}

/** MariaDB logs the statement with what bounds its time. */
function withoutLimitOfTime(text: string): string {
  return text.replace(/^SET STATEMENT max_statement_time=\S+ FOR /i, '');
}
