import { parseArgs } from 'node:util';
import { readEnv } from '../../services/runtime/env.ts';

export const scenarioNames = ['batch', 'unary', 'http'] as const;
export type ScenarioName = (typeof scenarioNames)[number];

/** What is measured around orders; each only when it is named. */
export const lifeScenarioNames = ['webhooks', 'expiry'] as const;
export type LifeScenarioName = (typeof lifeScenarioNames)[number];

export interface BenchOptions {
  readonly scenarios: readonly ScenarioName[];
  readonly lifeScenarios: readonly LifeScenarioName[];
  /** Orders per second; undefined looks for the highest rate that is held. */
  readonly rate: number | undefined;
  /** Multiples of the highest rate, or of `rate`, that are offered afterwards, one after the other. */
  readonly multiples: readonly number[];
  /** Length of the measured phase, and of each multiple. */
  readonly seconds: number;
  /** Length of one step of the search. */
  readonly stepSeconds: number;
  readonly skus: number;
  readonly users: number;
  /** Units of each SKU; undefined supplies more than can be sold. */
  readonly sellOut: number | undefined;
  /** Orders in one call of the scenario `batch`. */
  readonly batchEntries: number;
  /** HTTP connections at most. */
  readonly connections: number;
  readonly json: boolean;
}

export const helpText = `npm run bench -- [options]

Offers orders at a fixed rate, whatever the answers (open loop), and measures each from the moment it was due.
Without --rate it looks for the highest rate that is held and then measures at 70 % of it.
Afterwards it counts the orders and holds in MySQL and compares them with the answers, one by one.

  --scenario <name>    batch (gRPC BatchCreateOrders), unary (gRPC CreateOrder), http, or all of these (default);
                       webhooks: paid orders, told by signed webhooks (--rate of them, default 1000/s);
                       expiry: 2000 orders/s expire while others are bought (--rate of them, default 2000/s)
  --rate <n>           orders per second, instead of looking for the highest rate
  --multiples <list>   afterwards offer these multiples of the highest rate (or of --rate), such as 1,2,3,
                       and show for each what was created, what was turned away, and how fast
  --seconds <n>        length of the measured phase, and of each multiple (default 15)
  --step-seconds <n>   length of one step of the search (default 5)
  --skus <n>           SKUs on sale (default 100)
  --users <n>          buyers (default 5000)
  --sell-out <units>   supply of each SKU, so that most orders are refused
  --batch <n>          orders in one call of the scenario batch (default 100)
  --connections <n>    HTTP connections at most (default 512; with --multiples 1900, so that the
                       excess reaches the system instead of waiting here)
  --json               print one JSON document instead of tables
  --help               this text

Exit code 1 if the orders in MySQL, the holds and the answers disagree.
`;

/** @throws Error naming the option that is wrong */
export function readOptions(args: string[]): BenchOptions | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      scenario: { type: 'string', default: 'all' },
      rate: { type: 'string' },
      multiples: { type: 'string', default: '' },
      seconds: { type: 'string', default: '15' },
      'step-seconds': { type: 'string', default: '5' },
      skus: { type: 'string', default: '100' },
      users: { type: 'string', default: '5000' },
      'sell-out': { type: 'string' },
      batch: { type: 'string', default: '100' },
      connections: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const scenarios = scenarioNames.filter((name) => [name, 'all'].includes(values.scenario));
  const lifeScenarios = lifeScenarioNames.filter((name) => name === values.scenario);
  if (scenarios.length + lifeScenarios.length === 0) {
    const names = [...scenarioNames, ...lifeScenarioNames].join(', ');
    throw new Error(`--scenario must be all or one of ${names}`);
  }
  const multiples = values.multiples.split(',').filter((text) => text !== '');
  const connections = values.connections ?? (multiples.length > 0 ? '1900' : '512');
  return {
    scenarios,
    lifeScenarios,
    rate: values.rate === undefined ? undefined : whole('rate', values.rate, 1_000_000),
    multiples: multiples.map((text) => whole('multiples', text, 20)),
    seconds: whole('seconds', values.seconds, 3_600),
    stepSeconds: whole('step-seconds', values['step-seconds'], 600),
    skus: whole('skus', values.skus, 1_000),
    users: whole('users', values.users, 1_000_000),
    sellOut:
      values['sell-out'] === undefined
        ? undefined
        : whole('sell-out', values['sell-out'], 1_000_000_000),
    batchEntries: whole('batch', values.batch, 500),
    connections: whole('connections', connections, 10_000),
    json: values.json,
  };
}

function whole(name: string, text: string, max: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= 1 && value <= max) return value;
  throw new Error(`--${name} must be a whole number from 1 to ${max}`);
}

/** Where the stack under test is; set by `npm run bench`, which brings it up. */
export interface Stack {
  readonly edgeUrl: string;
  readonly orderAddress: string;
  readonly stockAddress: string;
  readonly paymentAddress: string;
  readonly mysqlUrls: readonly string[];
  readonly databasePrefix: string;
  readonly orderShards: { readonly databases: number; readonly tables: number };
  readonly tokenSecret: string;
  /** What webhooks are signed with. */
  readonly webhookKey: string;
  /** Processes whose memory and CPU are reported. */
  readonly processes: readonly { readonly name: string; readonly pid: number }[];
}

export function readStack(variables: Readonly<Record<string, string | undefined>>): Stack {
  return readEnv(variables, (env) => ({
    edgeUrl: env.string('SLUICE_EDGE_URL', 'http://127.0.0.1:8080'),
    orderAddress: env.string('SLUICE_ORDER_ADDRESS', '127.0.0.1:50051'),
    stockAddress: env.string('SLUICE_STOCK_ADDRESS', '127.0.0.1:50052'),
    paymentAddress: env.string('SLUICE_PAYMENT_ADDRESS', '127.0.0.1:50053'),
    mysqlUrls: env.urls('SLUICE_MYSQL_URLS', 'mysql', ['mysql://root@127.0.0.1:13306']),
    databasePrefix: env.string('SLUICE_DATABASE_PREFIX', 'sluice'),
    orderShards: env.shards('SLUICE_ORDER_SHARDS', '2x8'),
    tokenSecret: env.secret('SLUICE_TOKEN_SECRET', true),
    webhookKey: env.secrets('SLUICE_PAYMENT_WEBHOOK_KEYS', true)[0] ?? '',
    processes: env.list('SLUICE_BENCH_PIDS', []).map((entry) => {
      const [name = '', pid = ''] = entry.split(':');
      return { name, pid: Number(pid) };
    }),
  }));
}
