import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Failure } from '../../deploy/local/failure.ts';
import { stopLeftovers } from '../../deploy/local/leftovers.ts';
import {
  becomesTrue,
  type ManagedProcess,
  spawnLogged,
  stopByIdentity,
  waitUntilReady,
} from '../../deploy/local/process.ts';
import { identityOf } from '../../deploy/local/process-identity.ts';
import { recordedProcesses } from '../../deploy/local/process-record.ts';
import { createSupervisor } from '../../deploy/local/supervisor.ts';

const idle = 'setInterval(() => {}, 1000);';
/** A Node that begins or ends takes far less, on a machine that has nothing else to do. */
const beginMs = 60_000;
const stubborn = `process.on('SIGTERM', () => {}); ${idle}`;

function makeDir(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-process-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** A Node process that runs `code` and is gone after the test; says "up" in its log once it runs. */
async function run(
  t: TestContext,
  dir: string,
  code: string,
  name = 'sample',
): Promise<ManagedProcess> {
  const logFile = join(dir, `${name}.log`);
  const child = await spawnLogged({
    name,
    command: process.execPath,
    args: ['-e', `${code} console.log('up');`],
    logFile,
    recordDir: dir,
  });
  t.after(() => child.kill());
  assert.ok(await becomesTrue(() => readFileSync(logFile, 'utf8').includes('up'), beginMs));
  return child;
}

test('a process that obeys ends by SIGTERM', async (t) => {
  const child = await run(t, makeDir(t), idle);
  await child.stop();
  assert.deepEqual(await child.exited, { code: null, signal: 'SIGTERM' });
  assert.equal(child.isRunning(), false);
});

test('a process that ignores SIGTERM is killed after the grace', async (t) => {
  const child = await run(t, makeDir(t), stubborn);
  await child.stop(200);
  assert.deepEqual(await child.exited, { code: null, signal: 'SIGKILL' });
});

test('stopping twice is harmless', async (t) => {
  const child = await run(t, makeDir(t), idle);
  await Promise.all([child.stop(), child.stop()]);
  await child.stop();
});

test('a process that dies before it answers is a sentence with its log and the last lines of it', async (t) => {
  const dir = makeDir(t);
  const child = await run(t, dir, `console.log('the reason'); process.exitCode = 3;`);
  const waiting = waitUntilReady({ child, probe: async () => false, timeoutMs: beginMs });
  await assert.rejects(waiting, (error: Failure) => {
    assert.ok(error instanceof Failure);
    assert.equal(
      error.message,
      `sample ended by itself (exit code 3). Its log: ${join(dir, 'sample.log')}`,
    );
    assert.ok(error.details.includes('the reason'));
    return true;
  });
});

test('a process that never answers is stopped', async (t) => {
  const child = await run(t, makeDir(t), idle);
  const waiting = waitUntilReady({ child, probe: async () => false, timeoutMs: 100 });
  await assert.rejects(waiting, /did not answer/);
  assert.equal(child.isRunning(), false);
});

test('a program that does not exist is a sentence', async (t) => {
  const dir = makeDir(t);
  const options = { name: 'sample', command: '/nonexistent/program', args: [] };
  await assert.rejects(spawnLogged({ ...options, logFile: join(dir, 'log') }), Failure);
});

test('a process is recorded while it runs', async (t) => {
  const dir = makeDir(t);
  const child = await run(t, dir, idle);
  assert.deepEqual(
    recordedProcesses(dir).map(({ name, identity }) => [name, identity.pid]),
    [['sample', child.pid]],
  );
  await child.stop();
  assert.deepEqual(recordedProcesses(dir), []);
});

test('what an earlier run left running is stopped', async (t) => {
  const dir = makeDir(t);
  const child = await run(t, dir, idle);
  await stopLeftovers(dir, () => {});
  assert.equal(identityOf(child.pid), undefined);
});

test('a pid that belongs to another process by now is left alone', async (t) => {
  const child = await run(t, makeDir(t), idle);
  const identity = identityOf(child.pid);
  assert.ok(identity);
  await stopByIdentity({ ...identity, commandLine: 'redis-server --port 1' });
  await stopByIdentity({ ...identity, startTime: 'another' });
  assert.equal(child.isRunning(), true);
});

test('a supervisor stops in the order of the services, then the servers', async (t) => {
  const dir = makeDir(t);
  const supervisor = createSupervisor();
  const names = ['redis', 'mariadb', 'kafka', 'stock', 'order', 'edge'];
  for (const name of names) await supervisor.start(run(t, dir, idle, name));
  const stopped: string[] = [];
  await supervisor.stop((line) => stopped.push(line.split(' ')[0] ?? ''));
  assert.deepEqual(stopped, ['edge', 'order', 'stock', 'kafka', 'mariadb', 'redis']);
});

test('a supervisor reports a process that dies, and stops the others when told to', async (t) => {
  const dir = makeDir(t);
  const supervisor = createSupervisor();
  const redis = await supervisor.start(run(t, dir, idle, 'redis'));
  const stock = await supervisor.start(run(t, dir, idle, 'stock'));
  await redis.kill();
  await assert.rejects(supervisor.failed, /^Failure: redis ended by itself \(SIGKILL\)/);
  await supervisor.stop(() => {});
  assert.equal(stock.isRunning(), false);
  assert.equal(existsSync(join(dir, 'stock.process.json')), false);
});

test('a start that is under way when everything stops does not stay behind', async (t) => {
  const dir = makeDir(t);
  const supervisor = createSupervisor();
  let child: ManagedProcess | undefined;
  const starting = supervisor.start(
    (async () => {
      child = await run(t, dir, idle);
      const { signal } = supervisor;
      await waitUntilReady({ child, probe: async () => false, timeoutMs: 60_000, signal });
      return child;
    })(),
  );
  assert.ok(await becomesTrue(() => child !== undefined, beginMs));
  await Promise.all([assert.rejects(starting, /interrupted/), supervisor.stop(() => {})]);
  assert.equal(child?.isRunning(), false);
});
