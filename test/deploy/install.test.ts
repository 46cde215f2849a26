import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';

const installScript = join(import.meta.dirname, '../../deploy/local/install.mjs');

/** A checkout of its own with an npm that only notes that it ran; `npmScript` says what else it does. */
function makeCheckout(t: TestContext, npmScript: string) {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-install-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  mkdirSync(join(dir, 'deploy/local'), { recursive: true });
  mkdirSync(join(dir, 'bin'));
  copyFileSync(installScript, join(dir, 'deploy/local/install.mjs'));
  writeFileSync(join(dir, 'package-lock.json'), '{}\n');
  const npm = join(dir, 'bin/npm');
  writeFileSync(npm, `#!/bin/sh\necho "$@" >> "${dir}/npm-calls"\n${npmScript}\n`);
  chmodSync(npm, 0o755);
  const { npm_execpath: _, ...env } = process.env;
  // The stand-in is run by name, and a shebang of env needs the Node that runs this test.
  const path = [join(dir, 'bin'), dirname(process.execPath), env.PATH].join(delimiter);
  return {
    dir,
    calls: (): string[] =>
      existsSync(join(dir, 'npm-calls'))
        ? readFileSync(join(dir, 'npm-calls'), 'utf8').trim().split('\n')
        : [],
    install: () => runInstall(dir, { ...env, PATH: path }),
  };
}

async function runInstall(dir: string, env: NodeJS.ProcessEnv) {
  const child = spawn(process.execPath, [join(dir, 'deploy/local/install.mjs')], { env });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr.on('data', (chunk) => {
    output += chunk;
  });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, output };
}

const workingNpm = `mkdir -p node_modules/.bin && ln -sf "${process.execPath}" node_modules/.bin/node`;

test('packages are installed when there are none, without running their scripts', async (t) => {
  const { install, calls } = makeCheckout(t, workingNpm);
  const { code, output } = await install();
  assert.equal(code, 0, output);
  assert.equal(calls().length, 1);
  assert.match(calls()[0] ?? '', /^ci --ignore-scripts /);
  assert.match(output, /Installing the npm packages/);
});

test('a second run installs nothing and says nothing', async (t) => {
  const { install, calls } = makeCheckout(t, workingNpm);
  await install();
  const { code, output } = await install();
  assert.deepEqual({ code, output }, { code: 0, output: '' });
  assert.equal(calls().length, 1);
});

test('a changed lock file installs again', async (t) => {
  const { dir, install, calls } = makeCheckout(t, workingNpm);
  await install();
  appendFileSync(join(dir, 'package-lock.json'), '\n');
  assert.equal((await install()).code, 0);
  assert.equal(calls().length, 2);
});

test('removed packages are installed again', async (t) => {
  const { dir, install, calls } = makeCheckout(t, workingNpm);
  await install();
  rmSync(join(dir, 'node_modules'), { recursive: true });
  assert.equal((await install()).code, 0);
  assert.equal(calls().length, 2);
});

test('a failing npm is one sentence, and the next run tries again', async (t) => {
  const { install, calls } = makeCheckout(t, 'exit 7');
  const { code, output } = await install();
  assert.equal(code, 1);
  assert.match(output, /npm ci failed \(exit code 7\)/);
  assert.doesNotMatch(output, /at .*install\.mjs/);
  assert.equal((await install()).code, 1);
  assert.equal(calls().length, 2);
});

test('a machine without a package of the pinned Node is told so', async (t) => {
  const { install } = makeCheckout(t, 'mkdir -p node_modules/.bin');
  const { code, output } = await install();
  assert.equal(code, 1);
  assert.match(output, /No package brings the pinned Node to this machine \(\w+-\w+\)/);
});

test('two runs at the same time install once', async (t) => {
  const { install, calls } = makeCheckout(t, `sleep 1; ${workingNpm}`);
  const runs = await Promise.all([install(), install()]);
  assert.deepEqual(
    runs.map((run) => run.code),
    [0, 0],
  );
  assert.equal(calls().length, 1);
});

test('the lock of an installation that was killed does not hold up the next one', async (t) => {
  const { dir, install } = makeCheckout(t, workingNpm);
  const lock = join(dir, '.sluice/install.lock');
  mkdirSync(lock, { recursive: true });
  const gone = spawn(process.execPath, ['--version'], { stdio: 'ignore' });
  await new Promise((resolve) => gone.once('close', resolve));
  writeFileSync(join(lock, 'pid'), String(gone.pid));
  assert.equal((await install()).code, 0);
});
