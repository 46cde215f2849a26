import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort, isPortFree } from '../../deploy/local/port.ts';
import { becomesTrue, stopByIdentity } from '../../deploy/local/process.ts';
import { recordedProcesses } from '../../deploy/local/process-record.ts';

const startScript = join(import.meta.dirname, '../../deploy/local/start.ts');
/** A start makes databases, and brings up ten programs; some 20 s on a machine that has nothing else to do. */
const upBoundMs = 300_000;
/** Two starts, and the end of both. */
const slow = { timeout: 780_000 };
const askedMax = 20;
const servers = ['redis', 'mariadb', 'kafka'];
const services = ['stock', 'order', 'edge', 'payment', 'events', 'simulator', 'mail'];

const dir = mkdtempSync(join(tmpdir(), 'sluice-start-'));
const runDir = join(dir, 'run');
const env: NodeJS.ProcessEnv = {
  PATH: process.env.PATH,
  HOME: process.env.HOME,
  // Found by npm test if this file is killed.
  SLUICE_THROW_AWAY_DIR: process.env.SLUICE_THROW_AWAY_DIR,
  SLUICE_LOCAL_DIR: dir,
  SLUICE_LOCAL_REDIS_PORT: String(await freePort()),
  SLUICE_LOCAL_MYSQL_PORT: String(await freePort()),
  SLUICE_LOCAL_KAFKA_PORT: String(await freePort(2)),
  SLUICE_LOCAL_SMTP_PORT: String(await freePort()),
};
for (const name of ['EDGE', 'ORDER', 'STOCK', 'PAYMENT', 'SIMULATOR', 'EVENTS']) {
  env[`SLUICE_${name}_PORT`] = String(await freePort());
  env[`SLUICE_${name}_METRICS_PORT`] = String(await freePort());
}
const edgeUrl = `http://127.0.0.1:${env.SLUICE_EDGE_PORT}`;

const started = new Set<ChildProcess>();

after(async () => {
  for (const child of started) child.kill('SIGKILL');
  for (const { identity } of recordedProcesses(runDir)) await stopByIdentity(identity);
  rmSync(dir, { recursive: true, force: true });
});

/** `npm start` without npm. */
function start(...args: string[]) {
  const child = spawn(process.execPath, [startScript, ...args], { env });
  started.add(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString('utf8');
    });
  }
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) => {
    child.once('close', (code, signal) => {
      started.delete(child);
      resolve(code ?? signal);
    });
  });
  return {
    child,
    ended,
    output: () => output,
    async untilUp(): Promise<void> {
      const isSettled = () => output.includes('Place an order') || !started.has(child);
      await becomesTrue(isSettled, upBoundMs);
      assert.match(output, /Place an order/);
    },
  };
}

/** The printed curl, as a request; asked again, as a person would, while nobody knows the answer. */
async function placePrintedOrder(output: string): Promise<Response & { asked: number }> {
  const token = /Authorization: Bearer (\S+)'/.exec(output)?.[1];
  const key = /Idempotency-Key: (\S+)'/.exec(output)?.[1];
  const body = /-d '(.*)'/.exec(output)?.[1];
  assert.ok(token && key && body, output);
  const headers = {
    authorization: `Bearer ${token}`,
    'idempotency-key': key,
    'content-type': 'application/json',
  };
  for (let asked = 1; ; asked += 1) {
    const response = await fetch(`${edgeUrl}/v1/orders`, { method: 'POST', headers, body });
    if (response.status < 500 || asked === askedMax) return Object.assign(response, { asked });
    await response.body?.cancel();
    await sleep(500);
  }
}

function runningNames(): string[] {
  return recordedProcesses(runDir)
    .map(({ name }) => name)
    .sort();
}

let orderId: string;

test('a first start ends with a curl that places an order', slow, async () => {
  const first = start();
  await first.untilUp();
  assert.match(first.output(), /demo sale +5 SKUs/);
  const response = await placePrintedOrder(first.output());
  assert.equal(response.status, 201);
  orderId = ((await response.json()) as { orderId: string }).orderId;
  assert.deepEqual(runningNames(), [...servers, ...services].sort());

  const second = start();
  assert.equal(await second.ended, 1);
  assert.match(
    second.output(),
    new RegExp(`runs already in this checkout \\(pid ${first.child.pid}\\)`),
  );

  first.child.kill('SIGKILL');
  await first.ended;
  assert.deepEqual(runningNames(), [...servers, ...services].sort(), 'they outlive a kill -9');
});

test(
  'a start after kill -9 stops what was left, and knows the orders made before',
  slow,
  async () => {
    const again = start();
    await again.untilUp();
    assert.match(again.output(), /stopping edge \(pid \d+\), left over/);
    assert.match(again.output(), /demo sale +there already/);
    const response = await placePrintedOrder(again.output());
    assert.equal(response.status, 201);
    assert.equal(response.headers.get('idempotent-replayed'), 'true');
    assert.equal(((await response.json()) as { orderId: string }).orderId, orderId);

    again.child.kill('SIGINT');
    // npm passes the terminal's Ctrl-C on: the same one a second time.
    again.child.kill('SIGINT');
    assert.equal(await again.ended, 0);
    const stopped = [...again.output().matchAll(/^ {2}(\w+) stopped/gm)].map((match) => match[1]);
    assert.deepEqual(stopped, [
      ...['edge', 'simulator', 'order', 'payment', 'stock', 'events', 'mail'],
      ...['kafka', 'mariadb', 'redis'],
    ]);
    assert.deepEqual(runningNames(), []);
  },
);

test('a service that dies stops everything, with a sentence that names its log', slow, async () => {
  const run = start();
  await run.untilUp();
  const order = recordedProcesses(runDir).find(({ name }) => name === 'order');
  assert.ok(order);
  process.kill(order.identity.pid, 'SIGKILL');
  assert.equal(await run.ended, 1);
  assert.match(run.output(), /order ended by itself \(SIGKILL\)\. Its log: \S+order\.log/);
  assert.deepEqual(runningNames(), []);
});

test('a reset start knows nothing of the orders before', slow, async () => {
  const run = start('--reset');
  await run.untilUp();
  assert.match(run.output(), /demo sale +5 SKUs/);
  const response = await placePrintedOrder(run.output());
  assert.equal(response.status, 201);
  // Asked a second time it may be a repetition of the first.
  if (response.asked === 1) assert.equal(response.headers.get('idempotent-replayed'), null);
  assert.notEqual(((await response.json()) as { orderId: string }).orderId, orderId);
  run.child.kill('SIGTERM');
  assert.equal(await run.ended, 0);
});

test('a port in use ends the start before anything runs', async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(Number(env.SLUICE_EDGE_PORT), '127.0.0.1', resolve);
  });
  t.after(() => server.close());
  const run = start();
  assert.equal(await run.ended, 1);
  assert.match(run.output(), /Port \d+, wanted by edge, is in use by .*SLUICE_EDGE_PORT/);
  assert.deepEqual(runningNames(), []);
});

test('a server named by a variable that does not answer is a sentence with the variable', async () => {
  const url = `redis://127.0.0.1:${await freePort()}`;
  env.SLUICE_REDIS_URL = url;
  const run = start();
  delete env.SLUICE_REDIS_URL;
  assert.equal(await run.ended, 1);
  assert.match(run.output(), new RegExp(`Redis at ${url} \\(SLUICE_REDIS_URL\\) cannot be used`));
});

test('an interrupted start stops what it had begun', slow, async () => {
  const run = start();
  assert.ok(await becomesTrue(() => runningNames().length > 0, upBoundMs));
  run.child.kill('SIGINT');
  assert.equal(await run.ended, 130);
  assert.deepEqual(runningNames(), []);
  assert.equal(await isPortFree(Number(env.SLUICE_LOCAL_REDIS_PORT)), true);
});

test('an unknown flag is answered with the help', async () => {
  const run = start('--rest');
  assert.equal(await run.ended, 1);
  assert.match(run.output(), /--rest/);
  assert.match(run.output(), /--reset {3}throws away the data/);
});
