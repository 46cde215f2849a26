import { BlockList, isIP } from 'node:net';
import { ConfigError, readEnv, type Variables } from '../runtime/env.ts';
import { type LogLevel, logLevels } from '../runtime/log.ts';

export interface EdgeConfig {
  readonly logLevel: LogLevel;
  /** The address that HTTP listens on. */
  readonly listen: string;
  readonly port: number;
  readonly metricsPort: number;
  readonly orderAddress: readonly string[];
  readonly stockAddress: readonly string[];
  readonly paymentAddress: readonly string[];
  readonly tokenSecret: string;
  /** Demo mode hands out tokens to callers on the same machine. */
  readonly demo: boolean;
  /** CIDRs of the proxies whose X-Forwarded-For is believed; empty believes nobody's. */
  readonly trustedProxies: readonly string[];
  /** How long `/readyz` says 503 before the server stops accepting, so that balancers notice. */
  readonly drainMs: number;
  /** Orders that may wait for a place in a batch. */
  readonly orderQueueDepthMax: number;
  /** Open connections at most; one more takes the place of one on which nothing is under way. */
  readonly connectionsMax: number;
  /** Open connections of one client address at most; trusted proxies have no such bound. */
  readonly connectionsPerAddressMax: number;
  /** Webhooks at once that have arrived whole; each may hold a body of 256 KiB in memory. */
  readonly webhooksMax: number;
  /** Bytes of webhooks that have not arrived whole, of all senders together. */
  readonly webhookBytesMax: number;
  /** Streams of order states open at once. */
  readonly streamsMax: number;
}

/** @throws ConfigError naming every bad variable */
export function readConfig(variables: Variables): EdgeConfig {
  return readEnv(variables, (env) => {
    const demo = env.boolean('SLUICE_DEMO', false);
    return {
      logLevel: env.choice('SLUICE_LOG_LEVEL', logLevels, 'info'),
      listen: env.string('SLUICE_LISTEN', '127.0.0.1'),
      port: env.port('SLUICE_EDGE_PORT', 8080),
      metricsPort: env.port('SLUICE_EDGE_METRICS_PORT', 9464),
      orderAddress: env.addresses('SLUICE_ORDER_ADDRESS', ['127.0.0.1:50051']),
      stockAddress: env.addresses('SLUICE_STOCK_ADDRESS', ['127.0.0.1:50052']),
      paymentAddress: env.addresses('SLUICE_PAYMENT_ADDRESS', ['127.0.0.1:50053']),
      tokenSecret: env.secret('SLUICE_TOKEN_SECRET', demo),
      demo,
      trustedProxies: cidrs('SLUICE_TRUSTED_PROXIES', env.list('SLUICE_TRUSTED_PROXIES', [])),
      drainMs: env.integer('SLUICE_EDGE_DRAIN_MS', 250, { max: 8_000 }),
      orderQueueDepthMax: env.integer('SLUICE_EDGE_ORDER_QUEUE_MAX', 4_000, {
        min: 1,
        max: 100_000,
      }),
      connectionsMax: env.integer('SLUICE_EDGE_CONNECTIONS_MAX', 10_000, {
        min: 1,
        max: 1_000_000,
      }),
      // Load generators and proxies on one machine come with up to a thousand connections.
      connectionsPerAddressMax: env.integer('SLUICE_EDGE_CONNECTIONS_PER_ADDRESS', 2_000, {
        min: 1,
        max: 1_000_000,
      }),
      webhooksMax: env.integer('SLUICE_EDGE_WEBHOOKS', 512, { min: 1, max: 10_000 }),
      webhookBytesMax: env.integer('SLUICE_EDGE_WEBHOOK_BYTES', 32 * 1_024 * 1_024, {
        min: 256 * 1_024,
        max: 1_024 * 1_024 * 1_024,
      }),
      streamsMax: env.integer('SLUICE_EDGE_STREAMS', 5_000, { min: 1, max: 100_000 }),
    };
  });
}

/** @throws ConfigError if one of them is neither an address nor address/prefix */
function cidrs(name: string, values: readonly string[]): readonly string[] {
  const wrong = values.find((value) => !isCidr(value));
  if (wrong === undefined) return values;
  throw new ConfigError([`${name}=${wrong} must be addresses or CIDRs such as 10.0.0.0/8`]);
}

function isCidr(value: string): boolean {
  const [address = '', prefix, ...rest] = value.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  if (prefix === undefined) return true;
  return /^\d{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128);
}

/** Whether an IP address is this machine's own; IPv4 mapped into IPv6 counts. */
export const isLoopback = isOneOf(['127.0.0.0/8', '::1']);

/** Tells whether an IP address is one of those that the CIDRs name; IPv4 mapped into IPv6 counts. */
export function isOneOf(cidrsOrAddresses: readonly string[]): (address: string) => boolean {
  const list = new BlockList();
  for (const each of cidrsOrAddresses) {
    const [address = '', prefix] = each.split('/');
    const family = isIP(address) === 4 ? 'ipv4' : 'ipv6';
    if (prefix === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(prefix), family);
  }
  return (address) => {
    const plain = address.startsWith('::ffff:') ? address.slice('::ffff:'.length) : address;
    const family = isIP(plain);
    return family !== 0 && list.check(plain, family === 4 ? 'ipv4' : 'ipv6');
  };
}
