import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  OrderServiceDefinition,
  type OrderServiceImplementation,
} from '../../gen/sluice/order/v1/order_service.ts';
import { readConfig } from '../../services/operator/config.ts';
import { createProgress } from '../../services/operator/progress.ts';
import { prune } from '../../services/operator/prune/prune.ts';
import { openStores } from '../../services/operator/stores.ts';
import type { DeadlineContext } from '../../services/runtime/grpc-deadline.ts';
import { type GrpcServer, service, startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createLog } from '../../services/runtime/log.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { dropDatabases } from '../support/databases.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { type Filled, fill, filledShards } from './fill.ts';
import { sluice } from './run-sluice.ts';

// Orders that are no more in their tables; those that are, live-system.test.ts looks at.

const prefix = uniquePrefix('explain');
const daySeconds = 86_400;
/** The n-th orders of the filling: 13 was cancelled, 18 refunded, 19 is a fence. */
const [cancelled, refunded, fence] = [13, 18, 19];
const nowhere = '127.0.0.1:1';
let filled: Filled;
let order: GrpcServer;
let env: Record<string, string>;

before(async () => {
  filled = await fill({ prefix, orders: 40, ageSeconds: 60 * daySeconds });
  order = await startOrderServiceThatFindsNothing();
  env = {
    SLUICE_MYSQL_URLS: mysqlUrl,
    SLUICE_DATABASE_PREFIX: prefix,
    SLUICE_ORDER_SHARDS: `${filledShards.databases}x${filledShards.tables}`,
    SLUICE_ORDER_ADDRESS: `127.0.0.1:${order.port}`,
    SLUICE_STOCK_ADDRESS: nowhere,
    SLUICE_PAYMENT_ADDRESS: nowhere,
  };
  await pruneAll();
});

after(async () => {
  await order?.stop();
  await filled?.close();
  await dropDatabases(prefix);
});

async function startOrderServiceThatFindsNothing(): Promise<GrpcServer> {
  const nothing = async (): Promise<never> => {
    throw new Refusal('NOT_FOUND');
  };
  const methods = Object.keys(OrderServiceDefinition.methods).map((name) => [name, nothing]);
  const implementation = Object.fromEntries(methods) as OrderServiceImplementation<DeadlineContext>;
  return await startGrpcServer({
    host: '127.0.0.1',
    port: 0,
    services: [service(OrderServiceDefinition, implementation)],
    log: createLog('test', 'silent'),
    inFlightMax: 10,
  });
}

async function pruneAll(): Promise<void> {
  const config = readConfig(env);
  const stores = await openStores(config);
  const ages = { olderThanSeconds: 30 * daySeconds, refundedOlderThanSeconds: 30 * daySeconds };
  try {
    const progress = createProgress(process.stderr);
    await prune({ config, stores, dryRun: false, ...ages, progress });
  } finally {
    await stores.close();
  }
}

async function explained(n: number): Promise<string> {
  const orderId = await filled.orderId(n);
  const { code, stdout, stderr } = await sluice(['explain', orderId, '--no-kafka'], env);
  assert.equal(code, 0, stderr);
  return stdout;
}

function assertInOrder(text: string, ...patterns: RegExp[]): void {
  let from = 0;
  for (const pattern of patterns) {
    const found = text.slice(from).search(pattern);
    assert(found >= 0, `${pattern} after ${from} in\n${text}`);
    from += found;
  }
}

test('an archived order is told with its lines and its whole life, in time order', async () => {
  assertInOrder(
    await explained(refunded),
    /^Order \d+ is in the archive: it was REFUNDED and old/m,
    /^ {2}1 × SKU 4 at 4000 \(minor units\)/m,
    /^ {2}1 × SKU 6 at 6000 \(minor units\)/m,
    /^\S+Z +order +created for user \d+, request "r18", total 10000 EUR/m,
    /^\S+Z +order +PENDING → PAID, version 2/m,
    /^\S+Z +order +PAID → REFUNDING, version 3/m,
    /^\S+Z +order +REFUNDING → REFUNDED, version 4/m,
    /^\S+Z +archive +moved to the archive as REFUNDED, version 4/m,
  );
  assertInOrder(
    await explained(cancelled),
    /^\S+Z +order +PENDING → CANCELLED \(EXPIRED\), version 2/m,
    /^\S+Z +archive +moved to the archive as CANCELLED, version 2/m,
  );
});

test('an archived fence is told as one', async () => {
  assertInOrder(
    await explained(fence),
    /it was ABORTED and old/,
    /^\S+Z +order +fenced \(ABORTED\): this id was given up/m,
    /^\S+Z +archive +moved to the archive as ABORTED/m,
  );
});

test('that a service finds nothing is its answer; one that is away gives none', async () => {
  const text = await explained(cancelled);
  assert.match(text, /^now +order +answers NOT_FOUND$/m);
  assert.match(text, /^now +payment +no answer: No connection/m);
});
