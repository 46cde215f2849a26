import assert from 'node:assert/strict';
import { Agent, request } from 'node:http';
import { after, before, test } from 'node:test';
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { percentiles } from '../bench/recorder.ts';
import { expectNoBreaches } from '../support/invariants.ts';
import { orderShards, type System, startSystem } from '../support/system.ts';
import { attempt } from '../support/workload.ts';
import { attemptOf } from './buyers.ts';
import { type Attempt, assertRecovered, type Figures, runTrial } from './harness.ts';

// Three times as many orders as can be made: the excess is refused soon and told when to come again, and
// nearly as many are made as without the excess.

const skuIds = Array.from({ length: 10 }, (_, index) => 7_701n + BigInt(index));
/**
 * What each order takes its database, in milliseconds: so slow that every machine can offer three times
 * as many, and that the time is spent there whatever else the machine does.
 */
const insertMs = 15;
/** What a buyer waits for. */
const budgetMs = 2_000;
/** Buyers who each wait for their answer before they buy again: they cannot overload anything. */
const patientBuyers = 40;
const capacityMs = 2_500;
const overloadFactor = 3;
/** Until the doors have found out how many go through. */
const graceMs = 3_500;
const duringMs = 4_500;
/** Shares of what is made without the excess; a busy machine takes its part. */
const goodputMin = 0.6;
const unknownShareMax = 0.05;

const tokens = createTokens({ secret: demoTokenSecret });
const agent = new Agent({ keepAlive: true, maxSockets: 1_500 });
let system: System;

before(async () => {
  system = await startSystem({
    name: 'overload',
    edge: true,
    env: { SLUICE_SETTLE_AGE_MS: '3000' },
  });
  for (const skuId of skuIds) await system.createSku({ skuId, supplied: 1_000_000n });
  for (const pool of system.orderPools) {
    for (let table = 0; table < orderShards.tables; table += 1) {
      await pool.query(
        `CREATE TRIGGER slow_${table} BEFORE INSERT ON orders_0${table}
         FOR EACH ROW DO SLEEP(${insertMs / 1_000})`,
      );
    }
  }
});

after(async () => {
  agent.destroy();
  await system?.close();
});

type Buy = (label: string, number: number) => Promise<Attempt>;

/** Each attempt is another user's. */
let users = 0;

/** Orders in a second that buyers get who wait for their answers. */
async function measureCapacity(buy: Buy): Promise<number> {
  const startMs = performance.now();
  let number = 0;
  let made = 0;
  const buyer = async (): Promise<void> => {
    while (performance.now() - startMs < capacityMs) {
      number += 1;
      const { outcome } = await buy(`patient-${startMs}`, number);
      if (outcome === 'made') made += 1;
    }
  };
  await Promise.all(Array.from({ length: patientBuyers }, buyer));
  return (made * 1_000) / (performance.now() - startMs);
}

/** Measures what can be made, offers three times as much for a while, and measures again. */
async function overload(buy: Buy): Promise<void> {
  const perSecond = await measureCapacity(buy);
  assert.ok(perSecond > 10, `${perSecond} orders/s are made`);
  let isOn = false;
  const refusedMs: number[] = [];
  const buyInHerd = async (number: number): Promise<Attempt> => {
    const sentMs = performance.now();
    const answer = await buy('herd', number);
    if (answer.outcome === 'unserved') refusedMs.push(performance.now() - sentMs);
    return answer;
  };
  const steadyShare = 0.5;
  const { steady, herd } = await runTrial({
    groups: {
      steady: {
        perSecond: perSecond * steadyShare,
        send: (number) => buy('steady', number),
      },
      herd: {
        perSecond: perSecond * (overloadFactor - steadyShare),
        async send(number) {
          return isOn ? await buyInHerd(number) : { outcome: 'refused', reason: 'not sent' };
        },
      },
    },
    bad: {
      async on() {
        isOn = true;
      },
      async off() {
        isOn = false;
      },
    },
    ...{ beforeMs: 1_000, graceMs, duringMs, recoveryMs: 1_500, afterMs: 1_500 },
  });
  // A machine that has less to give for a while gives less to everybody.
  const capacity = Math.min(perSecond, await measureCapacity(buy));
  const figures = JSON.stringify({ perSecond, capacity, steady, herd }, undefined, 1);
  const { sent, made, unknown, unserved } = sumOf(steady.during, herd.during);
  const madePerSecond = (made * 1_000) / duringMs;
  assert.ok(sent > perSecond * 2, `so much was offered: ${figures}`);
  assert.ok(madePerSecond >= goodputMin * capacity, `goodput stays: ${madePerSecond} ${figures}`);
  assert.ok(unknown <= unknownShareMax * sent, `the excess knows that it is refused: ${figures}`);
  assert.ok(unserved >= 0.9 * (sent - made), `for the overload, and nothing else: ${figures}`);
  assert.equal(herd.during.reasons[noRetryAfter] ?? 0, 0, `each is told when to come: ${figures}`);
  const { p50, p99 } = percentiles(refusedMs);
  const refusals = `refused in ${p50} ms, P99 ${p99} ms`;
  assert.ok(p50 <= budgetMs / 8 && p99 <= budgetMs / 2, `${refusals}: ${figures}`);
  assert.ok(herd.during.madeMs.p50 <= budgetMs / 2, `made in time: ${figures}`);
  assertRecovered(steady, 'the buyers after the overload');
}

function sumOf(one: Figures, other: Figures) {
  const sum = (name: 'sent' | 'made' | 'unknown' | 'unserved'): number => one[name] + other[name];
  return {
    sent: sum('sent'),
    made: sum('made'),
    unknown: sum('unknown'),
    unserved: sum('unserved'),
  };
}

const noRetryAfter = '503 without Retry-After';

function buyOverHttp(label: string, number: number): Promise<Attempt> {
  users += 1;
  const { token } = tokens.sign({ userId: 1_000_000n + BigInt(users), ttlSeconds: 600 });
  const body = JSON.stringify({
    lines: [{ skuId: String(skuIds[number % skuIds.length]), quantity: 1 }],
  });
  return new Promise((resolve, reject) => {
    const sent = request(`http://127.0.0.1:${system.edge?.port}/v1/orders`, {
      method: 'POST',
      agent,
      headers: {
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        'content-length': body.length,
        'idempotency-key': `http-${label}-${number}`,
      },
    });
    sent.on('error', reject);
    sent.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (text += chunk));
      response.on('error', reject);
      response.on('end', () => {
        if (response.statusCode === 201) resolve({ outcome: 'made' });
        else if (response.statusCode === 503 && !(Number(response.headers['retry-after']) >= 1)) {
          resolve({ outcome: 'unserved', reason: noRetryAfter });
        } else resolve(attemptOf((JSON.parse(text) as { reason: string }).reason));
      });
    });
    sent.end(body);
  });
}

async function buyOverGrpc(label: string, number: number): Promise<Attempt> {
  users += 1;
  const click = {
    userId: 1_000_000n + BigInt(users),
    requestId: `grpc-${label}-${number}`,
    lines: [{ skuId: skuIds[number % skuIds.length] as bigint, quantity: 1 }],
    outcomes: [],
  };
  const answer = await attempt(system.order(), click, budgetMs);
  return answer.kind === 'ok' ? { outcome: 'made' } : attemptOf(answer.reason);
}

/** A counter of a process. */
async function counted(metricsPort: number | undefined, name: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  return Number(new RegExp(`^${name}\\S* (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
}

test('over the edge, three times the maximum costs refusals and no goodput', async () => {
  await overload(buyOverHttp);
  const refused = await counted(system.edge?.metricsPort, 'edge_orders_refused_at_door_total');
  assert.ok(refused > 0, 'the outermost door refused');
  await expectNoBreaches(system);
});

test('at the order service, three times the maximum costs refusals and no goodput', async () => {
  await overload(buyOverGrpc);
  const refused = await counted(system.orders[0]?.metricsPort, 'order_refused_at_door_total');
  assert.ok(refused > 0, 'its door refused');
  await expectNoBreaches(system);
});
