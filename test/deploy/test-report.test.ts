import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);
const runner = join(import.meta.dirname, 'fixtures/run.ts');

/** What is printed for these fixtures, line by line; the last one is the count. */
async function report(...fixtures: string[]): Promise<string[]> {
  return await reportWithin({}, ...fixtures);
}

/** The same with short bounds, for fixtures that are to exceed them; others might, where a machine stands still. */
async function reportWithin(
  bounds: { readonly testTimeoutMs?: number; readonly exitBoundMs?: number },
  ...fixtures: string[]
): Promise<string[]> {
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const args = [runner, JSON.stringify(bounds), ...fixtures];
  const { stdout } = await run(process.execPath, args, { env });
  return stdout.trimEnd().split('\n');
}

test('leaf tests are counted by how they ended', async () => {
  const lines = await report('mixed');
  assert.equal(lines.at(-1), '4 passed, 1 failed, 1 skipped');
});

test('a report names the file, each test, the reason of a skip and the difference of a failure', async () => {
  const text = (await report('mixed')).join('\n');
  assert.match(text, /^test\/deploy\/fixtures\/mixed\.ts$/m);
  assert.match(text, /^ {2}ok {6}passes$/m);
  assert.match(text, /^ {2}skipped is skipped {2}# not here$/m);
  assert.match(text, /^ {2}FAILED {2}fails$/m);
  assert.match(text, /1 !== 2/);
  assert.match(text, /^ {4}ok {6}passes in a suite$/m);
});

test('skipped tests are not mentioned when there are none', async () => {
  assert.equal((await report('passes')).at(-1), '1 passed, 0 failed');
});

test('a file whose process dies counts as failed, and what passed before still counts', async () => {
  const lines = await report('crashes');
  assert.equal(lines.at(-1), '1 passed, 1 failed');
  assert.match(
    lines.join('\n'),
    /process failed \(exit code 3\), during "takes the process with it"/,
  );
});

test('a file that does not exit after its tests counts as failed', async () => {
  const lines = await reportWithin({ exitBoundMs: 1_000 }, 'leaks');
  assert.equal(lines.at(-1), '1 passed, 1 failed');
  assert.match(lines.join('\n'), /did not exit within 1 s after its last test/);
});

test('a test that hangs fails by its timeout', async () => {
  const lines = await reportWithin({ testTimeoutMs: 2_000, exitBoundMs: 1_000 }, 'hangs');
  assert.match(lines.join('\n'), /FAILED {2}hangs/);
  assert.match(lines.join('\n'), /timed out after 2000ms/);
});

test('an error that comes after its test has passed counts as failed', async () => {
  const lines = await report('fails-late');
  assert.equal(lines.at(-1), '1 passed, 1 failed');
  assert.match(lines.join('\n'), /nobody caught me/);
});

test('a file without tests counts as failed', async () => {
  assert.equal((await report('empty')).at(-1), '0 passed, 1 failed');
});

test('the counts of several files are added', async () => {
  assert.equal((await report('passes', 'mixed')).at(-1), '5 passed, 1 failed, 1 skipped');
});
