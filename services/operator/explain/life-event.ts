/** One thing that happened to an order, and which store knows it. */
export interface LifeEvent {
  /** UTC, ISO 8601; undefined where the store keeps no time. */
  readonly time: string | undefined;
  readonly store: string;
  readonly what: string;
}

/** One line of an order, whether it is in its table or in the archive. */
export interface OrderLine {
  readonly skuId: string;
  readonly quantity: number;
  readonly unitPriceMinor: string;
}

/** Rows of one order as the stores have them, by `database.table`. */
export type StoredRows = Readonly<Record<string, readonly Record<string, unknown>[]>>;

export function timeOf(value: unknown): string | undefined {
  return value instanceof Date ? value.toISOString() : undefined;
}

/** Amounts are in the currency's minor units everywhere in Sluice; people are told so. */
export function money(minor: unknown, currency: unknown): string {
  return `${minor} ${currency} (minor units)`;
}
