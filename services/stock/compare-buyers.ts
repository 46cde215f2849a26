import type { RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../runtime/deadline.ts';
import { type Pool, query } from '../runtime/mysql.ts';
import { readBuyers, scanBuyers } from './gate-buyers.ts';
import type { GateConnection } from './gate-connection.ts';
import { readGates } from './gate-view.ts';
import { holdState } from './hold-states.ts';
import type { RequestResync } from './resync-queue.ts';
import type { SkuCatalogue } from './sku-catalogue.ts';

/** Users compared in one step, and looks at a SKU; a step is taken about once a second. */
const usersMax = 1_000;
const looksMax = 60;
/** Users remembered because gate and ledger differ about them; the others are met in the next round. */
const suspectsMax = 500;
const deadlineMs = 5_000;

/** Takes the next step of the comparison. @throws Refusal while Redis or the ledger is away */
export type CompareBuyers = () => Promise<void>;

export interface CompareBuyersOptions {
  readonly pool: Pool;
  readonly connection: GateConnection;
  readonly catalogue: SkuCatalogue;
  readonly requestResync: RequestResync;
  /** How long gate and ledger must say the same two things: longer than any order is under way. */
  readonly sureAfterMs: number;
}

/**
 * Compares what the gates believe their users to have with the ledger, a few users at a time and in
 * both directions. A difference that stays has the gate installed anew: one way a user would be
 * refused for nothing, the other way one might buy more than the limit.
 */
export function createCompareBuyers(options: CompareBuyersOptions): CompareBuyers {
  const comparison = new Comparison(options);
  return () => comparison.step();
}

interface Suspect extends Difference {
  readonly skuId: bigint;
  readonly epoch: bigint;
  readonly sinceMs: number;
}

interface Difference {
  readonly userId: bigint;
  readonly gate: number | undefined;
  readonly ledger: number | undefined;
}

/** Whether gate and ledger say different things; undefined stands for a user that one does not know. */
export function isBuyerWrong(gate: number | undefined, ledger: number | undefined): boolean {
  // The gate also knows users whose orders never came to be; with 0 units they do no harm.
  return ledger === undefined ? (gate ?? 0) !== 0 : gate !== ledger;
}

/** Where the walk through the SKU at the head of the list is. */
type Walk =
  | { readonly side: 'ledger'; readonly after: bigint }
  | { readonly side: 'gate'; readonly cursor: string | undefined };

const start: Walk = { side: 'ledger', after: -1n };

class Comparison {
  readonly #options: CompareBuyersOptions;
  readonly #suspects = new Map<string, Suspect>();
  #skuIds: bigint[] = [];
  #walk: Walk = start;

  constructor(options: CompareBuyersOptions) {
    this.#options = options;
  }

  async step(): Promise<void> {
    await this.#lookAgain();
    if (this.#skuIds.length === 0) this.#skuIds = this.#options.catalogue.all();
    let users = 0;
    for (let look = 0; look < looksMax && users < usersMax; look += 1) {
      const [skuId] = this.#skuIds;
      if (skuId === undefined) return;
      const [view] = await readGates(this.#options.connection, [skuId]);
      const chunk = view?.loaded ? await this.#nextUsers(skuId) : undefined;
      if (view === undefined || chunk === undefined) {
        this.#skuIds.shift();
        this.#walk = start;
        continue;
      }
      users += chunk.length;
      for (const found of await this.#differences(skuId, chunk)) {
        this.#suspect({ ...found, skuId, epoch: view.epoch, sinceMs: performance.now() });
      }
    }
  }

  /** Users of one chunk, from the ledger first and then from the gate; undefined behind the last. */
  async #nextUsers(skuId: bigint): Promise<bigint[] | undefined> {
    const { pool, connection } = this.#options;
    if (this.#walk.side === 'ledger') {
      const users = await usersBehind(pool, skuId, this.#walk.after);
      const last = users.length < usersMax ? undefined : users.at(-1);
      this.#walk =
        last === undefined ? { side: 'gate', cursor: '0' } : { side: 'ledger', after: last };
      return users;
    }
    if (this.#walk.cursor === undefined) return undefined;
    const { cursor, userIds } = await scanBuyers(connection, skuId, this.#walk.cursor, usersMax);
    this.#walk = { side: 'gate', cursor: cursor === '0' ? undefined : cursor };
    return userIds;
  }

  async #differences(skuId: bigint, userIds: readonly bigint[]): Promise<Difference[]> {
    if (userIds.length === 0) return [];
    const ledger = await readOwned(this.#options.pool, skuId, userIds);
    const gate = await readBuyers(this.#options.connection, skuId, userIds);
    return userIds.flatMap((userId, index) => {
      const found = { userId, gate: gate[index], ledger: ledger.get(userId) };
      return isBuyerWrong(found.gate, found.ledger) ? [found] : [];
    });
  }

  #suspect(suspect: Suspect): void {
    const key = `${suspect.skuId}:${suspect.userId}`;
    if (this.#suspects.size < suspectsMax && !this.#suspects.has(key)) {
      this.#suspects.set(key, suspect);
    }
  }

  /** Forgets suspects about whom anything moved; what has stayed long enough is wrong for good. */
  async #lookAgain(): Promise<void> {
    const { requestResync, sureAfterMs } = this.#options;
    const bySku = Map.groupBy(this.#suspects.values(), ({ skuId }) => skuId);
    for (const [skuId, suspects] of bySku) {
      const userIds = suspects.map(({ userId }) => userId);
      const now = new Map<bigint, Difference>();
      for (const found of await this.#differences(skuId, userIds)) now.set(found.userId, found);
      for (const suspect of suspects) {
        const found = now.get(suspect.userId);
        const same = found && found.gate === suspect.gate && found.ledger === suspect.ledger;
        const sure = same && performance.now() - suspect.sinceMs >= sureAfterMs;
        if (sure) requestResync(skuId, 'contradiction', suspect.epoch);
        if (sure || !same) this.#suspects.delete(`${skuId}:${suspect.userId}`);
      }
    }
  }
}

/** Users that the ledger knows, behind one, ascending. */
async function usersBehind(pool: Pool, skuId: bigint, after: bigint): Promise<bigint[]> {
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT DISTINCT user_id FROM stock_holds FORCE INDEX (holds_by_buyer)
     WHERE sku_id = ? AND user_id > ? AND state <> ${holdState.FENCED}
     ORDER BY user_id LIMIT ${usersMax}`,
    [skuId, after],
    { deadline: Deadline.after(deadlineMs) },
  );
  return rows.map((row) => BigInt(row.user_id));
}

/** Units that users have by the ledger; those with nothing but fences are missing. */
async function readOwned(
  pool: Pool,
  skuId: bigint,
  userIds: readonly bigint[],
): Promise<Map<bigint, number>> {
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT user_id, SUM(IF(state IN (${holdState.HELD}, ${holdState.SOLD}), units, 0)) AS units
     FROM stock_holds FORCE INDEX (holds_by_buyer)
     WHERE sku_id = ? AND user_id IN (?) AND state <> ${holdState.FENCED} GROUP BY user_id`,
    [skuId, userIds],
    { deadline: Deadline.after(deadlineMs) },
  );
  return new Map(rows.map((row) => [BigInt(row.user_id), Number(row.units)]));
}
