import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { type System, startSystem } from '../support/system.ts';
import { buyers } from './buyers.ts';
import { assertUnharmed, type Phases, runTrial } from './harness.ts';
import {
  askForDescriptor,
  connectHostile,
  framed,
  type HostilePeer,
  reflectionPath,
} from './hostile-grpc.ts';

// A peer of the order service that opens thousands of streams and takes no answer, or never ends a
// request. Buyers over gRPC notice nothing, and the process holds no memory for it.

const skuId = 8_901n;
const connections = 6;
/** Below what a connection may have, so that nothing but what they hold is against them. */
const streams = 1_900;
const mebibyte = 1_024 * 1_024;
const memorySlackBytes = 200 * mebibyte;

let system: System;

before(async () => {
  system = await startSystem({ name: 'hostile', orders: 1, stocks: 1 });
  await system.createSku({ skuId, supplied: 1_000_000n });
});

after(() => system?.close());

let groups = 0;

async function buyersMeanwhile(bad: {
  on(): Promise<void>;
  off(): Promise<void>;
}): Promise<{ phases: Phases; grownBytes: number }> {
  groups += 1;
  const group = buyers({
    label: `group-${groups}`,
    perSecond: 30,
    skuIds: [skuId],
    firstUserId: BigInt(groups) * 1_000_000n,
    client: () => system.order(),
  });
  const before = residentBytes();
  let mostBytes = before;
  const timer = setInterval(() => {
    mostBytes = Math.max(mostBytes, residentBytes());
  }, 20);
  try {
    const phases = await runTrial({
      groups: { group },
      bad,
      beforeMs: 2_000,
      duringMs: 6_000,
      afterMs: 500,
    });
    return { phases: phases.group, grownBytes: mostBytes - before };
  } finally {
    clearInterval(timer);
  }
}

function residentBytes(): number {
  const text = readFileSync(`/proc/${system.orders[0]?.process.pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(text)?.[1]) * 1_024;
}

async function openStreams(): Promise<number> {
  const url = `http://127.0.0.1:${system.orders[0]?.metricsPort}/metrics`;
  const text = await (await fetch(url)).text();
  return Number(/^grpc_streams\S* (\d+)$/m.exec(text)?.[1]);
}

async function attack(open: (peer: HostilePeer) => Promise<void>): Promise<HostilePeer[]> {
  const port = system.orders[0]?.port ?? 0;
  const peers: HostilePeer[] = [];
  for (let count = 0; count < connections; count += 1) {
    const peer = await connectHostile(port);
    peers.push(peer);
    await open(peer);
  }
  return peers;
}

test('reflection with a zero window, on thousands of streams, costs no memory and nobody else', async () => {
  const question = askForDescriptor('sluice.order.v1.OrderService');
  let peers: HostilePeer[] = [];
  const { phases, grownBytes } = await buyersMeanwhile({
    async on() {
      peers = await attack((peer) => peer.open(reflectionPath, streams, question, { end: false }));
    },
    off: async () => {
      for (const peer of peers) peer.destroy();
    },
  });
  assert.ok(grownBytes <= memorySlackBytes, `the process grew by ${grownBytes} bytes`);
  assertUnharmed(phases, 'buyers');
});

test('requests that never end are given up while their peer stays', async () => {
  // All but the last byte of a message.
  const begun = framed(Buffer.alloc(100)).subarray(0, 50);
  let peers: HostilePeer[] = [];
  const { phases, grownBytes } = await buyersMeanwhile({
    async on() {
      const path = '/sluice.order.v1.OrderService/GetOrder';
      peers = await attack((peer) => peer.open(path, streams, begun, { end: false }));
    },
    async off() {
      await eventually(async () => (await openStreams()) <= 20, 'the streams are given up');
      assert.ok(
        peers.some(({ session }) => !session.destroyed),
        'their connections are there',
      );
      for (const peer of peers) peer.destroy();
    },
  });
  assert.ok(grownBytes <= memorySlackBytes, `the process grew by ${grownBytes} bytes`);
  assertUnharmed(phases, 'buyers');
});
