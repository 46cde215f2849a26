import type { RowDataPacket } from 'mysql2/promise';
import { type SlotPlace, slotCount } from '../../db/order/slot-map.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OrderDatabase } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';

/**
 * Knows which database and table each of the 1,024 slots lives in. The map is cached; every
 * transaction compares its version, so a stale copy is noticed before it does harm.
 */
export class OrderShards {
  readonly databases: readonly OrderDatabase[];
  #version = 0;
  readonly #databaseOfSlot = new Uint16Array(slotCount);
  readonly #tableOfSlot = new Uint16Array(slotCount);

  constructor(databases: readonly OrderDatabase[]) {
    this.databases = databases;
  }

  /** The version of the cached map; 0 until it was read. */
  get version(): number {
    return this.#version;
  }

  /** The number of the database that a slot lives in. @throws Refusal before the map was read */
  databaseOf(slot: number): number {
    if (this.#version === 0) throw new Refusal('DEPENDENCY_DOWN', 'The slot map is not read yet');
    return this.#databaseOfSlot[slot] as number;
  }

  /** The number of the table, within its database, that a slot lives in. */
  tableOf(slot: number): number {
    return this.#tableOfSlot[slot] as number;
  }

  /** The suffixes of the tables of a database that slots live in, ascending. */
  tablesOf(index: number): string[] {
    const tables = new Set<number>();
    for (const [slot, database] of this.#databaseOfSlot.entries()) {
      if (this.#version > 0 && database === index) tables.add(this.tableOf(slot));
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
      `SELECT version, IF(version > ${this.#version}, slots, NULL) AS slots FROM slot_map WHERE id = 1`,
      deadline,
    );
    const row = rows[0];
    if (row === undefined)
      throw new Error(`Order database ${index} has no slot map: migrate first`);
    if (row.version <= this.#version) return;
    const slots = JSON.parse(row.slots) as SlotPlace[];
    if (slots.length !== slotCount || slots.some(([at]) => at >= this.databases.length)) {
      throw new Error(
        `The slot map of order database ${index} names databases that are not configured`,
      );
    }
    for (const [slot, [database, table]] of slots.entries()) {
      this.#databaseOfSlot[slot] = database;
      this.#tableOfSlot[slot] = table;
    }
    this.#version = row.version;
  }
}

/** A table's number as it stands in its name: `orders_07`. */
export function tableSuffix(table: number): string {
  return table < 10 ? `0${table}` : String(table);
}
