import { demoTokenSecret, type EnvReader, readEnv, type Variables } from '../runtime/env.ts';
import { createTokens } from '../runtime/tokens.ts';

const tokenTtlSeconds = 3_600;
const loopback = /^(127\.\d+\.\d+\.\d+|localhost|::1|\[::1\])$/;

/** Settings of the command line: the services' own variables, with the ports of `npm start` as defaults. */
export interface OperatorConfig {
  readonly mysqlUrls: readonly string[];
  readonly warehouseUrl: string;
  readonly databasePrefix: string;
  readonly shards: { readonly databases: number; readonly tables: number };
  readonly kafkaBrokers: readonly string[];
  readonly topicPrefix: string;
  readonly orderAddresses: readonly string[];
  readonly stockAddresses: readonly string[];
  readonly paymentAddresses: readonly string[];
  /** For operators' methods; undefined if there is none, and then `tokenMissing` says what to do. */
  readonly adminToken: string | undefined;
  readonly tokenMissing: string;
}

/** Reads the settings; the only place where the command line looks at its environment. @throws ConfigError */
export function readConfig(variables: Variables): Readonly<OperatorConfig> {
  return readEnv(variables, (env) => {
    const mysqlUrls = env.urls('SLUICE_MYSQL_URLS', 'mysql', ['mysql://root@127.0.0.1:13306']);
    const stockAddresses = env.addresses('SLUICE_STOCK_ADDRESS', ['127.0.0.1:50052']);
    const warehouseUrls = env.urls('SLUICE_WAREHOUSE_URL', 'mysql', [mysqlUrls[0] as string]);
    return {
      mysqlUrls,
      warehouseUrl: warehouseUrls[0] as string,
      databasePrefix: env.string('SLUICE_DATABASE_PREFIX', 'sluice'),
      shards: env.shards('SLUICE_ORDER_SHARDS', '2x8'),
      kafkaBrokers: env.addresses('SLUICE_KAFKA_BROKERS', ['127.0.0.1:19092']),
      topicPrefix: env.string('SLUICE_KAFKA_TOPIC_PREFIX', ''),
      orderAddresses: env.addresses('SLUICE_ORDER_ADDRESS', ['127.0.0.1:50051']),
      stockAddresses,
      paymentAddresses: env.addresses('SLUICE_PAYMENT_ADDRESS', ['127.0.0.1:50053']),
      ...adminTokenOf(env, stockAddresses),
    };
  });
}

/**
 * SLUICE_TOKEN as it is; else one made with SLUICE_TOKEN_SECRET; else one made with the public demo secret, which
 * only services in demo mode accept, and only towards services on this machine.
 */
function adminTokenOf(
  env: EnvReader,
  addresses: readonly string[],
): Pick<OperatorConfig, 'adminToken' | 'tokenMissing'> {
  const given = env.string('SLUICE_TOKEN', '');
  if (given !== '') return { adminToken: given, tokenMissing: '' };
  const ownSecret = env.string('SLUICE_TOKEN_SECRET', '');
  const demo = env.boolean('SLUICE_DEMO', true);
  const local = addresses.every((address) => loopback.test(address.replace(/:\d+$/, '')));
  const ask = 'set SLUICE_TOKEN to a token with the role admin';
  if (ownSecret === '' && !demo) {
    return { adminToken: undefined, tokenMissing: `SLUICE_DEMO=0: ${ask}` };
  }
  if (ownSecret === '' && !local) {
    const reason = `${addresses.join(',')} is not this machine, and the demo token is for it only`;
    return { adminToken: undefined, tokenMissing: `${reason}: ${ask}` };
  }
  const tokens = createTokens({ secret: ownSecret === '' ? demoTokenSecret : ownSecret });
  const { token } = tokens.sign({ userId: 1n, role: 'admin', ttlSeconds: tokenTtlSeconds });
  return { adminToken: token, tokenMissing: '' };
}
