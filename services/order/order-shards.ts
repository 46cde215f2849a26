import type { RowDataPacket } from 'mysql2/promise';
import { type SlotPlace, slotCount } from '../../db/order/slot-map.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OrderDatabase } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';

/**
 * Where each of the 1,024 slots lives by one version of the map, which never changes. Whoever writes
 * takes all places of one transaction from here and has this version compared there: a map that is
 * read again meanwhile must not lead half of the work elsewhere.
 */
export class SlotRoutes {
  /** 0 until a map was read. */
  readonly version: number;
  readonly #databaseOfSlot: Uint16Array;
  readonly #tableOfSlot: Uint16Array;

  constructor(version: number, places: readonly SlotPlace[]) {
    this.version = version;
    this.#databaseOfSlot = Uint16Array.from(places, ([database]) => database);
    this.#tableOfSlot = Uint16Array.from(places, ([, table]) => table);
  }

  /** The number of the database that a slot lives in. @throws Refusal before the map was read */
  databaseOf(slot: number): number {
    if (this.version === 0) throw new Refusal('DEPENDENCY_DOWN', 'The slot map is not read yet');
    return this.#databaseOfSlot[slot] as number;
  }

  /** The number of the table, within its database, that a slot lives in. */
  tableOf(slot: number): number {
    return this.#tableOfSlot[slot] as number;
  }
}

/** The order databases and the newest map that was read; `routes` is replaced by a newer one. */
export class OrderShards {
  readonly databases: readonly OrderDatabase[];
  #routes = new SlotRoutes(0, []);

  constructor(databases: readonly OrderDatabase[]) {
    this.databases = databases;
  }

  get routes(): SlotRoutes {
    return this.#routes;
  }

  /** The version of the cached map; 0 until it was read. */
  get version(): number {
    return this.#routes.version;
  }

  /** The number of the database that a slot lives in now. @throws Refusal before the map was read */
  databaseOf(slot: number): number {
    return this.#routes.databaseOf(slot);
  }

  /** The number of the table, within its database, that a slot lives in now. */
  tableOf(slot: number): number {
    return this.#routes.tableOf(slot);
  }

  /** The suffixes of the tables of a database that slots live in, ascending. */
  tablesOf(index: number): string[] {
    const tables = new Set<number>();
    for (let slot = 0; this.version > 0 && slot < slotCount; slot += 1) {
      if (this.databaseOf(slot) === index) tables.add(this.tableOf(slot));
    }
    return [...tables].sort((a, b) => a - b).map(tableSuffix);
  }

  /** Where one slot's orders are. */
  place(slot: number): { database: OrderDatabase; table: string } {
    return {
      database: this.database(this.databaseOf(slot)),
      table: tableSuffix(this.tableOf(slot)),
    };
  }

  /** Where an order is. */
  placeOfOrder(orderId: bigint): { database: OrderDatabase; table: string } {
    return this.place(slotOfOrder(orderId));
  }

  database(index: number): OrderDatabase {
    return this.databases[index] as OrderDatabase;
  }

  /**
   * Reads the map of one database and takes it over if it is newer. An older one is left: that
   * database is behind in a move of slots, and its transactions are refused until it has caught up.
   *
   * @throws Refusal DEPENDENCY_DOWN; Error if the map does not fit the configured databases
   */
  async refresh(index: number, deadline: Deadline): Promise<void> {
    const rows = await this.database(index).query<RowDataPacket[]>(
      `SELECT version, IF(version > ${this.version}, slots, NULL) AS slots FROM slot_map WHERE id = 1`,
      deadline,
    );
    const row = rows[0];
    if (row === undefined)
      throw new Error(`Order database ${index} has no slot map: migrate first`);
    if (row.version <= this.version) return;
    const slots = JSON.parse(row.slots) as SlotPlace[];
    if (slots.length !== slotCount || slots.some(([at]) => at >= this.databases.length)) {
      throw new Error(
        `The slot map of order database ${index} names databases that are not configured`,
      );
    }
    this.#routes = new SlotRoutes(row.version, slots);
  }
}

/** A table's number as it stands in its name: `orders_07`. */
export function tableSuffix(table: number): string {
  return table < 10 ? `0${table}` : String(table);
}
