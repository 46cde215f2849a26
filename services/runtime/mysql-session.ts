import { randomUUID } from 'node:crypto';
import type { RowDataPacket } from 'mysql2/promise';
import { mysqlErrno, textOf } from './mysql-errors.ts';
import {
  limitsOfResults,
  type ServerKind,
  type SessionNeeds,
  type SettingValue,
  settingsOf,
  unfitSetting,
} from './mysql-settings.ts';

/** What is known of one session on a server. */
export interface ServerSession {
  readonly kind: ServerKind;
  readonly multipleStatements: boolean;
  /**
   * The name of a lock that this session alone holds for as long as it lives; it tells on any server
   * whether the session is there, and under which number. Undefined if the server has no such locks.
   */
  readonly lockName: string | undefined;
  /**
   * Seconds after which `wait_timeout` must end the session while a transaction is open; undefined on
   * a server that ends abandoned transactions by itself.
   */
  readonly transactionRestSeconds: number | undefined;
  /** Whether `wait_timeout` is that short now. */
  endsSoon: boolean;
}

/** Anything that carries out one statement. */
export interface Queryable {
  query<Rows extends RowDataPacket[]>(sql: string): Promise<[Rows, unknown]>;
}

/** The server is set in a way that our statements cannot work with. The message says what to do. */
export class ServerUnfit extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'ServerUnfit';
  }
}

/** The kind of a server by the version that it presents itself with. */
export function kindOfVersion(version: string): ServerKind {
  return /mariadb/i.test(version) ? 'mariadb' : 'mysql';
}

/**
 * Sets all that our statements rely on, whatever the server's own defaults are.
 *
 * @param server its address, for sentences
 * @throws ServerUnfit if a setting that no session can change does not fit; else what the server or
 *   the network answers. Then the session must not be used.
 */
export async function setUpSession(
  connection: Queryable,
  kind: ServerKind,
  needs: SessionNeeds,
  server: string,
): Promise<Omit<ServerSession, 'multipleStatements'>> {
  const wanted = settingsOf(kind, needs);
  // The limits of results hold for the list of variables as well.
  await change(connection, limitsOfResults, needs, server);
  const values = await readVariables(connection);
  const unfit = unfitSetting(values, needs);
  if (unfit !== undefined) {
    throw new ServerUnfit(`The database server at ${server} cannot be used: ${unfit}`);
  }
  const changes = [...wanted].filter(
    ([name, value]) => values.has(name) && !isSame(values.get(name), value),
  );
  await change(connection, changes, needs, server);
  return {
    kind,
    lockName: needs.isForeign ? undefined : await takeName(connection),
    endsSoon: false,
    transactionRestSeconds:
      values.has('idle_transaction_timeout') || needs.isForeign ? undefined : needs.restSecondsMax,
  };
}

async function readVariables(connection: Queryable): Promise<Map<string, string>> {
  const [rows] = await connection.query<RowDataPacket[]>('SHOW SESSION VARIABLES');
  return new Map(rows.map(({ Variable_name: name, Value: value }) => [name, value]));
}

function isSame(shown: string | undefined, wanted: SettingValue): boolean {
  return typeof wanted === 'string' ? shown === wanted : Number(shown) === Number(wanted);
}

async function change(
  connection: Queryable,
  changes: readonly (readonly [name: string, value: SettingValue])[],
  { isForeign }: SessionNeeds,
  server: string,
): Promise<void> {
  const settings = changes.map(
    ([name, value]) => `${name} = ${typeof value === 'string' ? `'${value}'` : value}`,
  );
  if (isForeign) {
    for (const setting of settings) await tryToSet(connection, setting);
    return;
  }
  if (settings.length === 0) return;
  const list = settings.join(', ');
  try {
    await connection.query(`SET SESSION ${list}`);
  } catch (error) {
    if (mysqlErrno(error) === undefined) throw error;
    throw new ServerUnfit(
      `The database server at ${server} cannot be used, because it refuses what our sessions need ` +
        `(${list}): ${textOf(error)}`,
      error,
    );
  }
}

/** @throws only if the connection is lost */
async function tryToSet(connection: Queryable, setting: string): Promise<void> {
  try {
    await connection.query(`SET SESSION ${setting}`);
  } catch (error) {
    if (mysqlErrno(error) === undefined) throw error;
  }
}

async function takeName(connection: Queryable): Promise<string | undefined> {
  const name = `sluice-${randomUUID()}`;
  const [rows] = await connection.query<RowDataPacket[]>(`SELECT GET_LOCK('${name}', 0) AS taken`);
  return Number(rows[0]?.taken) === 1 ? name : undefined;
}
