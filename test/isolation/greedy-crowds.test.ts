import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fromClientError } from '../../services/runtime/refusal-status.ts';
import { type System, startSystem } from '../support/system.ts';
import { attempt } from '../support/workload.ts';
import { buyers } from './buyers.ts';
import { assertRecovered, assertUnharmed, type Group, runTrial } from './harness.ts';
import { httpBuyers } from './http-buyers.ts';

// A caller who orders as much as may be in one order, a hundred times at once or in batches; a herd of
// readers; and hundreds of pages in one moment: buyers of the very SKUs of all that notice nothing.

const skuIds = Array.from({ length: 20 }, (_, index) => 7_401n + BigInt(index));
const linesOfAll = skuIds.map((skuId) => ({ skuId, quantity: 1_000 }));
/** More than their share of the outermost door lets in at once. */
const basketsAtOnce = 100;
const batchesAtOnce = 2;
const batchOrders = 500;
const readersAtOnce = 100;
const pagesAtOnce = 400;
const pagesEveryMs = 1_500;
/** Of each of the crowd between two calls: what is proven is that nobody waits behind it, not how much a machine takes. */
const restMs = 100;
const slow = { timeout: 240_000 };
/** The user who fills baskets, and whose orders the herd reads. */
const collector = 5n;

let system: System;
/** What came of what the crowd asked for. */
let answers: Record<string, number>;

before(async () => {
  system = await startSystem({ name: 'crowds', edge: true });
  for (const skuId of skuIds) await system.createSku({ skuId, supplied: 1_000_000_000n });
});

after(() => system?.close());

function note(answer: string): void {
  answers[answer] = (answers[answer] ?? 0) + 1;
}

async function besideCrowd(
  group: Group,
  crowd: (signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  answers = {};
  const gone = new AbortController();
  let crowded: Promise<unknown> | undefined;
  const { all } = await runTrial({
    groups: { all: group },
    bad: {
      on: async () => {
        crowded = crowd(gone.signal);
      },
      async off() {
        gone.abort();
        await crowded;
      },
    },
    beforeMs: 3_000,
    duringMs: 5_000,
    recoveryMs: 500,
    afterMs: 2_000,
  });
  assertUnharmed(all, 'buyers beside the crowd');
  assertRecovered(all, 'buyers behind the crowd');
}

/** So many who do it again and again, with a little rest between. */
async function again(
  atOnce: number,
  signal: AbortSignal,
  once: (number: number) => Promise<string>,
): Promise<void> {
  let number = 0;
  const one = async (): Promise<void> => {
    while (!signal.aborted) {
      number += 1;
      note(await once(number));
      await sleep(restMs);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, one));
}

for (const [what, atOnce, orders] of [
  ['a hundred of the largest baskets', basketsAtOnce, 1],
  ['two batches of 500 of them', batchesAtOnce, batchOrders],
] as const) {
  test(`${what} at once harm no buyer of their SKUs`, slow, async () => {
    const client = () => system.order();
    const label = `beside ${orders}`;
    const group = buyers({ label, perSecond: 40, skuIds, firstUserId: 1_000n, client });
    await besideCrowd(group, (signal) =>
      again(atOnce, signal, async (number) => {
        const requests = Array.from({ length: orders }, (_, at) => ({
          ...{ userId: collector, requestId: `basket-${orders}-${number}-${at}` },
          lines: linesOfAll,
        }));
        const { results } = await client().batchCreateOrders({ requests });
        for (const { outcome } of results) note(outcome?.$case ?? 'none');
        return 'answered';
      }),
    );
    assert.ok((answers.created ?? 0) > atOnce, JSON.stringify(answers));
  });
}

test(
  'a hundred readers of SKUs and orders at once harm no buyer, and are answered',
  slow,
  async () => {
    const client = () => system.order();
    const group = buyers({ label: 'read', perSecond: 20, skuIds, firstUserId: 100_000n, client });
    const made = await attempt(client(), {
      ...{ userId: collector, requestId: 'read', lines: linesOfAll.slice(0, 1), outcomes: [] },
    });
    assert.equal(made.kind, 'ok');
    const { orderId } = made as { orderId: bigint };
    const reads = [
      (number: number) => system.stock.getSku({ skuId: skuIds[number % skuIds.length] as bigint }),
      () => system.stock.listSkus({ pageSize: 50, pageToken: '' }),
      () => system.order().getOrder({ orderId, userId: collector }),
      () => system.order().listOrders({ userId: collector, pageSize: 20, pageToken: '' }),
    ];
    await besideCrowd(group, (signal) =>
      again(readersAtOnce, signal, async (number) => {
        const read = reads[number % reads.length] as (number: number) => Promise<unknown>;
        return await read(number).then(
          () => 'answered',
          (error) => fromClientError(error).reason,
        );
      }),
    );
    assert.deepEqual(Object.keys(answers), ['answered'], JSON.stringify(answers));
  },
);

test('400 pages in one moment, again and again, harm no buyer, and are shown', slow, async () => {
  const url = `http://127.0.0.1:${system.edge?.port}`;
  const group = httpBuyers({ url, label: 'page', perSecond: 20, skuIds, firstUserId: 200_000n });
  const load = async (path: string): Promise<void> => {
    const response = await fetch(`${url}${path}`);
    await response.arrayBuffer();
    note(String(response.status));
  };
  // What 400 requests in one moment cost both ends by themselves is not the pages' doing.
  const control = new AbortController();
  const controls = inMoments(control.signal, () => load('/healthz'));
  try {
    await besideCrowd(group, async (signal) => {
      control.abort();
      await inMoments(signal, async (number) => {
        const skuId = skuIds[number % skuIds.length];
        const paths = ['/v1/skus?pageSize=50', `/v1/skus/${skuId}`, `/v1/stock?skuId=${skuId}`];
        await load(paths[number % paths.length] as string);
      });
    });
  } finally {
    control.abort();
    await controls;
  }
  assert.deepEqual(Object.keys(answers), ['200'], JSON.stringify(answers));
});

/** 400 at once, again and again. */
async function inMoments(
  signal: AbortSignal,
  load: (number: number) => Promise<void>,
): Promise<void> {
  while (!signal.aborted) {
    const pages = Array.from({ length: pagesAtOnce }, (_, number) => load(number));
    await Promise.all([...pages, sleep(pagesEveryMs)]);
  }
}
