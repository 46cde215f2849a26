import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { acquireStartLock } from '../../deploy/local/start-lock.ts';

const lockModule = join(import.meta.dirname, '../../deploy/local/start-lock.ts');

function makeDir(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-lock-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Another process that takes the lock and keeps it until it is killed. */
async function holdElsewhere(t: TestContext, dir: string): Promise<ChildProcess> {
  const code = `
    const { acquireStartLock } = await import(${JSON.stringify(lockModule)});
    acquireStartLock(${JSON.stringify(dir)}, 'npm start');
    console.log('held');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  return child;
}

test('a second start says who has the lock', async (t) => {
  const dir = makeDir(t);
  const holder = await holdElsewhere(t, dir);
  assert.throws(
    () => acquireStartLock(dir, 'npm start'),
    new RegExp(`npm start runs already in this checkout \\(pid ${holder.pid}\\)`),
  );
});

test('the lock of a killed start is taken over', async (t) => {
  const dir = makeDir(t);
  const holder = await holdElsewhere(t, dir);
  holder.kill('SIGKILL');
  await once(holder, 'exit');
  const lock = acquireStartLock(dir, 'npm start');
  assert.equal(lock.wasStale, true);
  lock.release();
});

test('a lock whose pid another process has by now is taken over', (t) => {
  const dir = makeDir(t);
  const other = { pid: process.pid, commandLine: 'something else', startTime: '1' };
  writeFileSync(join(dir, 'start.lock'), JSON.stringify(other));
  const lock = acquireStartLock(dir, 'npm start');
  assert.equal(lock.wasStale, true);
  lock.release();
});

test('an unreadable lock is taken over', (t) => {
  const dir = makeDir(t);
  writeFileSync(join(dir, 'start.lock'), '');
  acquireStartLock(dir, 'npm start').release();
});

test('a released lock leaves nothing behind', (t) => {
  const dir = makeDir(t);
  const lock = acquireStartLock(dir, 'npm start');
  assert.equal(lock.wasStale, false);
  assert.throws(() => acquireStartLock(dir, 'npm start'), /runs already/);
  lock.release();
  assert.equal(existsSync(join(dir, 'start.lock')), false);
});
