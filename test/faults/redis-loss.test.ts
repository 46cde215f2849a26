import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { type Composed, compose, isGateOpen, untilGateOpen } from '../support/composed.ts';
import { eventually } from '../support/eventually.ts';
import { expectNoBreaches } from '../support/invariants.ts';
import {
  attempt,
  attemptUntilKnown,
  type Click,
  type Outcome,
  runSeed,
  startWorkload,
  type Workload,
} from '../support/workload.ts';
import { follow, frontRedis, type RedisFront, type RedisNode } from './redis-nodes.ts';

// Redis loses some or all of what it knew in the middle of a sale, in every way it can.

/** The design's bound for reopening after any loss. */
const reopenWithinMs = 10_000;
/** More than the bounds of one sale together. */
const saleTimeout = { timeout: 420_000 };
/** Of each SKU: enough that some is left after every loss, however long the replicas take to follow. */
const supplied = 600n;
/** Orders before the loss, so that there is something to lose. */
const soldBefore = 40;
/** What buyers may be told while Redis is away or wrong; each of them may be tried again. */
const awayReasons = new Set([
  'STOCK_NOT_LOADED',
  'OUTCOME_UNKNOWN',
  'DEPENDENCY_DOWN',
  'OVERLOADED',
]);
const seed = runSeed();
console.log(`seed ${seed} (SLUICE_TEST_SEED)`);
let system: Composed;
let front: RedisFront;
let lastSku = 500n;

before(async () => {
  system = await compose('redisloss');
  front = await frontRedis(system);
});

after(async () => {
  await system?.close();
  await front?.close();
});

async function newSku(units: bigint): Promise<bigint> {
  lastSku += 1n;
  await system.a.admin.createSku({
    skuId: lastSku,
    title: `Thing ${lastSku}`,
    unitPrice: { currencyCode: 'EUR', minorUnits: 100n },
    supplied: units,
    limitPerUser: 0,
  });
  await untilGateOpen(system.b, lastSku);
  return lastSku;
}

function oks({ history }: Workload): number {
  return history.filter(({ outcomes }) => outcomes.some(({ kind }) => kind === 'ok')).length;
}

let lastUser = 1_000_000n;

function newClick(skuId: bigint): Click {
  lastUser += 1n;
  const lines = [{ skuId, quantity: 1 }];
  return { userId: lastUser, requestId: `loss ${lastUser}`, lines, outcomes: [] };
}

async function figuresOf(skuIds: readonly bigint[]): Promise<{ available: number; held: number }> {
  const [rows] = await system.stockPool.query(
    'SELECT SUM(available) AS available, SUM(held) AS held FROM skus WHERE sku_id IN (?)',
    [skuIds],
  );
  const [row] = rows as { available: string; held: string }[];
  return { available: Number(row?.available), held: Number(row?.held) };
}

/**
 * A sale of two SKUs through a loss: orders are made before it, the sale is open again soon behind it,
 * and goes on until the last unit is sold and no promise is broken.
 */
async function sellThrough(
  node: RedisNode,
  loss: () => Promise<void>,
  { noticed = true } = {},
): Promise<void> {
  front.pointTo(node);
  const skuIds = [await newSku(supplied), await newSku(supplied)];
  const workload = startWorkload({
    clients: () => [system.a.order, system.b.order],
    ...{
      seed: seed + Number(lastSku),
      skuIds,
      users: 5_000,
      concurrency: 8,
      restMs: 20,
      clicksMax: 50_000,
    },
  });
  try {
    await eventually(() => oks(workload) >= soldBefore, `${soldBefore} orders are made`);
    await loss();
    const open = () => Promise.all(skuIds.map((skuId) => isGateOpen(system.b, skuId)));
    await eventually(async () => !(await open()).includes(false), 'the sale is open again', {
      withinMs: reopenWithinMs,
    });
    const soldOut = async () => (await figuresOf(skuIds)).available === 0;
    await eventually(soldOut, 'the last unit is sold', { withinMs: 120_000, everyMs: 200 });
  } finally {
    await workload.stop();
  }
  await expectNoBreaches({ ...system, admin: system.b.admin }, workload.history);
  await buyTheRest(skuIds, workload.history);
  assert.deepEqual(await figuresOf(skuIds), { available: 0, held: Number(supplied) * 2 });
  let toldAway = 0;
  for (const { outcomes } of workload.history) {
    for (const outcome of outcomes) {
      if (outcome.kind === 'unknown') {
        toldAway += 1;
        assert(awayReasons.has(outcome.reason), outcome.reason);
      }
      if (outcome.kind === 'refused') assert.equal(outcome.reason, 'SOLD_OUT');
    }
  }
  if (noticed) assert(toldAway > 0, 'nobody noticed the loss');
}

/** Buyers who got no answer at the end left units behind that came back since: somebody else gets them. */
async function buyTheRest(skuIds: readonly bigint[], history: readonly Click[]): Promise<void> {
  const rest: Click[] = [];
  for (const skuId of skuIds) {
    let outcome: Outcome;
    do {
      const click = newClick(skuId);
      rest.push(click);
      outcome = await attemptUntilKnown(system.b.order, click);
    } while (outcome.kind === 'ok');
    assert.deepEqual(outcome, { kind: 'refused', reason: 'SOLD_OUT' });
  }
  await expectNoBreaches({ ...system, admin: system.b.admin }, [...history, ...rest]);
}

/** The file to which a node appends every command. */
function appendedFile({ dir }: RedisNode): string {
  const folder = join(dir, 'appendonlydir');
  const name = readdirSync(folder).find((each) => each.endsWith('.incr.aof'));
  return join(folder, name as string);
}

/** Cuts a node's file inside the command that is there: a cut between two is no damage. */
function truncate(node: RedisNode, share: number): void {
  const file = appendedFile(node);
  const content = readFileSync(file);
  const command = content.lastIndexOf('\r\n*', Math.floor(content.length * share));
  assert(command > 0, 'there are commands to cut');
  truncateSync(file, command + '\r\n*3'.length);
}

/** A replica that has stopped following somewhere behind what its master knows. */
async function laggingReplica(master: RedisNode): Promise<RedisNode> {
  const replica = await front.addNode();
  await follow(replica, master);
  return replica;
}

/** Nobody listens there: the link is cut, and the replica keeps what it has. */
async function cutLink({ client }: RedisNode): Promise<void> {
  await client.replicaof('127.0.0.1', 1);
}

async function untilSold(more: number): Promise<void> {
  const [before] = await countHolds();
  const enough = async () => ((await countHolds())[0] as number) >= (before as number) + more;
  await eventually(enough, `${more} more holds`);
}

async function countHolds(): Promise<number[]> {
  const [rows] = await system.stockPool.query('SELECT COUNT(*) AS holds FROM stock_holds');
  return (rows as { holds: string }[]).map(({ holds }) => Number(holds));
}

test(
  'a sale goes through a restart with a file that was cut in its middle',
  saleTimeout,
  async () => {
    const node = await front.addNode();
    await sellThrough(node, async () => {
      await node.kill();
      truncate(node, 0.6);
      await node.start(['--aof-load-truncated', 'yes']);
    });
  },
);

test(
  'a sale goes through a restart with a cut file that had to be repaired by hand',
  saleTimeout,
  async () => {
    const node = await front.addNode();
    await sellThrough(node, async () => {
      await node.kill();
      truncate(node, 0.9);
      await assert.rejects(node.start(['--aof-load-truncated', 'no']), 'it refuses to start');
      execFileSync('redis-check-aof', ['--fix', appendedFile(node)], { input: 'y\n' });
      await node.start(['--aof-load-truncated', 'no']);
    });
  },
);

test('a sale goes through a restart without any file', saleTimeout, async () => {
  const node = await front.addNode();
  await sellThrough(node, async () => {
    await node.kill();
    rmSync(join(node.dir, 'appendonlydir'), { recursive: true });
    await node.start();
  });
});

test('a sale goes through FLUSHALL', saleTimeout, async () => {
  const node = await front.addNode();
  await sellThrough(node, async () => {
    // Long enough for a buyer to come by.
    failpoints.set('stock.resync_closed', () => sleep(200));
    try {
      await node.client.flushall();
      await sleep(500);
    } finally {
      failpoints.clear();
    }
  });
});

test('a sale goes through SCRIPT FLUSH, again and again', saleTimeout, async () => {
  const node = await front.addNode();
  const flush = async (): Promise<void> => {
    for (let count = 0; count < 20; count += 1) {
      await node.client.script('FLUSH');
      await sleep(20);
    }
  };
  await sellThrough(node, flush, { noticed: false });
});

test('a sale goes through a failover to a replica that lost a suffix', saleTimeout, async () => {
  const master = await front.addNode();
  const replica = await laggingReplica(master);
  await sellThrough(master, async () => {
    await cutLink(replica);
    await untilSold(20);
    await master.kill();
    await replica.client.replicaof('NO', 'ONE');
    front.pointTo(replica);
  });
});

test(
  'a sale goes through a failover to a replica that hung while orders were made',
  saleTimeout,
  async () => {
    const master = await front.addNode();
    const replica = await laggingReplica(master);
    await sellThrough(master, async () => {
      process.kill(replica.pid(), 'SIGSTOP');
      await untilSold(20);
      await master.kill();
      process.kill(replica.pid(), 'SIGCONT');
      await replica.client.replicaof('NO', 'ONE');
      front.pointTo(replica);
    });
  },
);

test(
  'a sale goes to a replica and back to its old master, which had not noticed',
  saleTimeout,
  async () => {
    const master = await front.addNode();
    const replica = await laggingReplica(master);
    await sellThrough(master, async () => {
      await cutLink(replica);
      await untilSold(20);
      await replica.client.replicaof('NO', 'ONE');
      front.pointTo(replica);
      await untilSold(20);
      // The same server with the same identity, and a memory from before.
      front.pointTo(master);
    });
  },
);

test(
  'a sale goes to a replica and back to its old master, which follows the new one meanwhile',
  saleTimeout,
  async () => {
    const master = await front.addNode();
    const replica = await laggingReplica(master);
    await sellThrough(master, async () => {
      await cutLink(replica);
      await untilSold(20);
      await replica.client.replicaof('NO', 'ONE');
      front.pointTo(replica);
      await untilSold(20);
      await follow(master, replica);
      await cutLink(master);
      await untilSold(20);
      await master.client.replicaof('NO', 'ONE');
      front.pointTo(master);
    });
  },
);

test(
  'a sale goes through a failover whose old master lives on as a replica, with connections open to it',
  saleTimeout,
  async () => {
    const master = await front.addNode();
    const replica = await laggingReplica(master);
    await sellThrough(master, async () => {
      await replica.client.replicaof('NO', 'ONE');
      front.pointNewOnesTo(replica);
      await master.client.replicaof('127.0.0.1', replica.port);
    });
  },
);

test('when the connection is killed behind the script and before its reply, one unit is taken', async () => {
  const node = await front.addNode();
  front.pointTo(node);
  const skuId = await newSku(4n);
  // A script that Redis does not know yet would be sent again, and this one is not to be.
  assert.equal((await attemptUntilKnown(system.a.order, newClick(skuId))).kind, 'ok');
  const click = newClick(skuId);
  front.loseReplies(true);
  const attempts: Promise<Outcome>[] = [];
  try {
    await eventually(async () => {
      if ((await node.client.get(`{sku:${skuId}}:avail`)) === '2') return true;
      // Redis does nothing that it is asked too late, as by a process that stood still meanwhile.
      if (attempts.length === click.outcomes.length) attempts.push(attempt(system.a.order, click));
      return false;
    }, 'the script has run');
    await node.client.call('CLIENT', 'KILL', 'TYPE', 'normal');
  } finally {
    front.loseReplies(false);
  }
  for (const each of attempts) assert.equal((await each).kind, 'unknown');
  await eventually(
    async () => (await attempt(system.b.order, click)).kind === 'ok',
    'the retry is answered',
  );
  await expectNoBreaches({ ...system, admin: system.b.admin }, [click]);
  const { gate, ledger } = await system.b.admin.getStockLayers({ skuId });
  assert.deepEqual([gate?.available, ledger?.available, ledger?.held], [2n, 2n, 2n]);
});

test(
  'commands that Redis finds 5 s after their time are not carried out',
  saleTimeout,
  async () => {
    const node = await front.addNode();
    front.pointTo(node);
    const skuId = await newSku(500n);
    const clicks = Array.from({ length: 30 }, () => newClick(skuId));
    const stopped = performance.now();
    process.kill(node.pid(), 'SIGSTOP');
    const sides = [system.a, system.b];
    for (const [index, click] of clicks.entries()) {
      const side = sides[index % 2] as typeof system.a;
      void attempt(side.order, click, 1_500);
      await sleep(10);
    }
    await eventually(() => clicks.every(({ outcomes }) => outcomes.length > 0), 'all are answered');
    for (const { outcomes } of clicks) assert.equal(outcomes[0]?.kind, 'unknown');
    await eventually(() => performance.now() - stopped > 5_500, 'it hangs long enough');
    process.kill(node.pid(), 'SIGCONT');
    await node.client.ping();
    assert.equal(await node.client.zcard(`{sku:${skuId}}:pending`), 0);
    // No user is 0: the field marks a gate whose buyers are known.
    assert.deepEqual(await node.client.hkeys(`{sku:${skuId}}:buyers`), ['0']);
    assert.equal(await node.client.get(`{sku:${skuId}}:avail`), '500');
    await eventually(
      async () => {
        const outcomes = await Promise.all(clicks.map((click) => attempt(system.b.order, click)));
        return outcomes.every(({ kind }) => kind === 'ok');
      },
      'the sale goes on and every click is answered',
      { withinMs: reopenWithinMs * 2, everyMs: 200 },
    );
    await expectNoBreaches({ ...system, admin: system.b.admin }, clicks);
    assert.deepEqual(await figuresOf([skuId]), { available: 470, held: 30 });
  },
);
