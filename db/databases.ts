/** What kinds of databases there are; each has a folder here with its migrations and its drizzle schema. */
export const databaseKinds = ['order', 'stock', 'payment', 'events', 'warehouse'] as const;

export type DatabaseKind = (typeof databaseKinds)[number];

export type TargetDatabase = {
  url: string;
  name: string;
  kind: DatabaseKind;
  /** Numbered tables of each sort; only order databases have them. */
  tables: number;
  /** Which of the order databases. */
  index: number;
};

export type DatabasesOptions = {
  /** mysql://user:password@host:port, no database; order database i lives on server i mod n, the others on the first. */
  mysqlUrls: readonly string[];
  /** Server of the warehouse, where it is another one. */
  warehouseUrl?: string;
  databasePrefix: string;
  orderShards: { databases: number; tables: number };
};

/** Every database of one installation, each with its server. */
export function databasesOf(options: DatabasesOptions): TargetDatabase[] {
  const { mysqlUrls, databasePrefix, orderShards } = options;
  const url = (index: number): string => {
    const found = mysqlUrls[index % mysqlUrls.length];
    if (found === undefined) throw new Error('No MySQL server was given.');
    return found;
  };
  const single = (kind: DatabaseKind, server = url(0)): TargetDatabase => ({
    url: server,
    name: `${databasePrefix}_${kind}`,
    kind,
    tables: 0,
    index: 0,
  });
  const orders = Array.from({ length: orderShards.databases }, (_, index): TargetDatabase => {
    const name = `${databasePrefix}_order_${index}`;
    return { url: url(index), name, kind: 'order', tables: orderShards.tables, index };
  });
  return [
    single('stock'),
    ...orders,
    single('payment'),
    single('events'),
    single('warehouse', options.warehouseUrl),
  ];
}
