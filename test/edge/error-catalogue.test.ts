import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { ClientError, createChannel, createClientFactory, Status } from 'nice-grpc';
import {
  ErrorInfo,
  errorDetailsClientMiddleware,
  RetryInfo,
  RichClientError,
} from 'nice-grpc-error-details';
import { OrderServiceDefinition } from '../../gen/sluice/order/v1/order_service.ts';
import { Refusal, type RefusalReason, refusalTable } from '../../services/runtime/refusals.ts';
import {
  bearer,
  Peers,
  type ProblemBody,
  type RunningEdge,
  startEdge,
  startPeers,
} from './support.ts';

const peers = new Peers();
let server: Awaited<ReturnType<typeof startPeers>>;
let edge: RunningEdge;

before(async () => {
  server = await startPeers(peers);
});

// A fresh edge for each reason: failures of one must not open the breaker for the next.
beforeEach(async () => {
  await edge?.stop();
  edge = await startEdge(server.port);
});

after(async () => {
  await edge.stop();
  await server.stop();
});

/** The catalogue as the design writes it, apart from the table under test. */
const catalogue: Record<RefusalReason, [grpc: Status, http: number]> = {
  INVALID_REQUEST: [Status.INVALID_ARGUMENT, 400],
  IDEMPOTENCY_KEY_REUSED: [Status.INVALID_ARGUMENT, 422],
  UNAUTHENTICATED: [Status.UNAUTHENTICATED, 401],
  FORBIDDEN: [Status.PERMISSION_DENIED, 403],
  NOT_FOUND: [Status.NOT_FOUND, 404],
  SOLD_OUT: [Status.FAILED_PRECONDITION, 409],
  PURCHASE_LIMIT: [Status.FAILED_PRECONDITION, 409],
  SALE_NOT_STARTED: [Status.FAILED_PRECONDITION, 409],
  SALE_ENDED: [Status.FAILED_PRECONDITION, 409],
  SKU_PAUSED: [Status.FAILED_PRECONDITION, 409],
  ILLEGAL_TRANSITION: [Status.FAILED_PRECONDITION, 409],
  RATE_LIMITED: [Status.RESOURCE_EXHAUSTED, 429],
  OVERLOADED: [Status.UNAVAILABLE, 503],
  STOCK_NOT_LOADED: [Status.UNAVAILABLE, 503],
  DEPENDENCY_DOWN: [Status.UNAVAILABLE, 503],
  OUTCOME_UNKNOWN: [Status.DEADLINE_EXCEEDED, 504],
};

test('the table has every reason of the design and no other', () => {
  assert.deepEqual(Object.keys(refusalTable).sort(), Object.keys(catalogue).sort());
});

for (const [name, [grpc, http]] of Object.entries(catalogue)) {
  const reason = name as RefusalReason;

  test(`${reason} is ${Status[grpc]} over gRPC and ${http} over HTTP, with one reason and one wait`, async () => {
    peers.refusal = new Refusal(reason, 'a sentence', { skuId: 9n });
    const status = await grpcStatus();
    assert.equal(status.code, grpc);
    const info = status.extra.find((detail) => detail.$type === ErrorInfo.$type) as ErrorInfo;
    assert.equal(info.reason, reason);
    assert.equal(info.domain, 'sluice');
    const retry = status.extra.find((detail) => detail.$type === RetryInfo.$type) as
      | RetryInfo
      | undefined;

    // Once as the answer of a call, once as an entry's result inside a batch.
    for (const response of [await read(), await create()]) {
      assert.equal(response.status, http);
      assert.equal(response.headers.get('content-type'), 'application/problem+json');
      const problem = (await response.json()) as ProblemBody;
      assert.equal(problem.reason, info.reason);
      assert.equal(problem.status, http);
      assert.equal(problem.title, refusalTable[reason].title);
      assert.equal(
        problem.type,
        `https://sluice.dev/problems/${reason.toLowerCase().replaceAll('_', '-')}`,
      );
      assert.match(problem.instance, /^urn:sluice:request:/);
      assert.equal(problem.skuId, '9');
      const seconds = retry?.retryDelay ? String(retry.retryDelay.seconds) : null;
      assert.equal(response.headers.get('retry-after'), seconds);
    }
  });
}

for (const reason of [
  'RATE_LIMITED',
  'OVERLOADED',
  'STOCK_NOT_LOADED',
  'DEPENDENCY_DOWN',
] as const) {
  test(`${reason} tells after how many whole seconds to retry`, async () => {
    peers.refusal = new Refusal(reason, undefined, { retryAfterMs: 1_001 });
    assert.equal((await create()).headers.get('retry-after'), '2');
  });
}

test('violations of a service are named by the JSON fields of the route', async () => {
  peers.refusal = new Refusal('INVALID_REQUEST', undefined, {
    violations: [
      { field: 'lines[0].sku_id', description: 'is not known' },
      { field: 'request_id', description: 'is too long' },
    ],
  });
  const { violations, detail } = (await (await create()).json()) as ProblemBody;
  assert.deepEqual(
    violations?.map(({ field }) => field),
    ['lines[0].skuId', 'Idempotency-Key'],
  );
  assert.equal(detail, 'lines[0].skuId: is not known; Idempotency-Key: is too long');
});

test('the text of a failure stays inside', async () => {
  peers.refusal = new Refusal('DEPENDENCY_DOWN', 'mysql-7.internal refused the connection');
  assert.doesNotMatch(await (await create()).text(), /mysql-7/);
});

test('an unexpected error of a service is 504 for a write and never shows its text', async () => {
  peers.refusal = undefined;
  peers.hold = Promise.reject(new Error('secret text'));
  peers.hold.catch(() => {});
  const response = await create();
  peers.hold = undefined;
  assert.equal(response.status, 504);
  assert.doesNotMatch(await response.text(), /secret text/);
});

async function grpcStatus(): Promise<RichClientError> {
  const channel = createChannel(`127.0.0.1:${server.port}`);
  const client = createClientFactory()
    .use(errorDetailsClientMiddleware)
    .create(OrderServiceDefinition, channel);
  try {
    await client.getOrder({ orderId: 1n, userId: 1n });
  } catch (error) {
    assert.ok(error instanceof ClientError && error instanceof RichClientError);
    return error;
  } finally {
    channel.close();
  }
  throw new Error('the call was not refused');
}

function read(): Promise<Response> {
  return fetch(`${edge.url}/v1/orders/1`, { headers: bearer(1n) });
}

function create(): Promise<Response> {
  return fetch(`${edge.url}/v1/orders`, {
    method: 'POST',
    headers: { ...bearer(1n), 'content-type': 'application/json', 'idempotency-key': 'k' },
    body: '{"lines":[{"skuId":"1","quantity":1}]}',
  });
}
