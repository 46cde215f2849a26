// Installs the npm packages when they are not those of package-lock.json, and otherwise returns at once.
// Plain JavaScript for Node 18 and later, because it runs before the Node that the project pins is there.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const nodeMajorMin = 18;
const lockWaitMs = 10 * 60_000;
const lockPollMs = 500;
/** A lock folder without a pid is being made right now; older than this its maker died in between. */
const lockWithoutPidMs = 5_000;

const repositoryDir = join(dirname(fileURLToPath(import.meta.url)), '../..');
const stampFile = join(repositoryDir, 'node_modules/.sluice-installed');
const pinnedNode = join(repositoryDir, 'node_modules/.bin/node');
const lockDir = join(repositoryDir, '.sluice/install.lock');

try {
  requireNode();
  if (!isInstalled()) underLock(install);
} catch (error) {
  console.error(`\n${error instanceof Sentence ? error.message : (error?.stack ?? error)}`);
  process.exitCode = 1;
}

function requireNode() {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < nodeMajorMin) {
    fail(
      `Sluice needs Node ${nodeMajorMin} or later to begin with; this is Node ${process.versions.node}.`,
    );
  }
}

function isInstalled() {
  return (
    existsSync(pinnedNode) &&
    existsSync(stampFile) &&
    readFileSync(stampFile, 'utf8') === stampWanted()
  );
}

/** Changes with the lock file and with the machine, as a checkout may be mounted into another one. */
function stampWanted() {
  const lockFile = join(repositoryDir, 'package-lock.json');
  if (!existsSync(lockFile)) fail(`package-lock.json is missing in ${repositoryDir}.`);
  const digest = createHash('sha256').update(readFileSync(lockFile)).digest('hex');
  return `${digest} ${process.platform}-${process.arch}\n`;
}

function install() {
  if (isInstalled()) return;
  console.log('Installing the npm packages (npm ci --ignore-scripts), about half a minute …');
  const args = [
    'ci',
    '--ignore-scripts',
    '--include=dev',
    '--include=optional',
    '--no-audit',
    '--no-fund',
    // Its warnings are about the Node that runs npm, while everything else runs on the pinned one.
    '--loglevel=error',
  ];
  // Under `npm start` the npm that runs us is named; calling it by hand takes the one on the PATH.
  const cli = process.env.npm_execpath;
  const [command, commandArgs] = cli?.endsWith('npm-cli.js')
    ? [process.execPath, [cli, ...args]]
    : ['npm', args];
  const { status, signal, error } = spawnSync(command, commandArgs, {
    cwd: repositoryDir,
    stdio: 'inherit',
  });
  if (error !== undefined) {
    fail(`npm cannot be run (${error.message}): install npm, then try again.`);
  }
  if (status !== 0) {
    fail(
      `npm ci failed (${signal ?? `exit code ${status}`}), see its output above: is the npm registry reachable, and the disk not full?`,
    );
  }
  requirePinnedNode();
  writeFileSync(stampFile, stampWanted());
}

/** The pinned Node is an optional package per platform: npm leaves it out silently where there is none. */
function requirePinnedNode() {
  const machine = `${process.platform}-${process.arch}`;
  if (!existsSync(pinnedNode)) {
    fail(
      `No package brings the pinned Node to this machine (${machine}); Sluice runs on Linux x64 and arm64 and on macOS x64 and arm64.`,
    );
  }
  const { status, error, stderr } = spawnSync(pinnedNode, ['--version'], { encoding: 'utf8' });
  if (status !== 0) {
    const reason = error?.message ?? stderr.trim().split('\n')[0];
    fail(
      `The pinned Node (node_modules/.bin/node) does not run on this machine (${machine}: ${reason}); it needs glibc 2.28 or later, so Alpine Linux will not do.`,
    );
  }
}

/** `npm start` and `npm test` may both find the packages missing; the second one waits for the first. */
function underLock(work) {
  mkdirSync(dirname(lockDir), { recursive: true });
  const deadline = Date.now() + lockWaitMs;
  let told = false;
  while (!tryLock()) {
    if (Date.now() > deadline) {
      fail(`Another installation is still running; if none is, remove ${lockDir}.`);
    }
    if (!told) console.log('Another process installs the npm packages; waiting for it …');
    told = true;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, lockPollMs);
  }
  try {
    work();
  } finally {
    rmSync(lockDir, { recursive: true, force: true });
  }
}

function tryLock() {
  try {
    mkdirSync(lockDir);
    writeFileSync(join(lockDir, 'pid'), String(process.pid));
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  if (isLockStale()) rmSync(lockDir, { recursive: true, force: true });
  return false;
}

function isLockStale() {
  try {
    process.kill(Number(readFileSync(join(lockDir, 'pid'), 'utf8')), 0);
    return false;
  } catch (error) {
    if (error.code === 'ESRCH') return true;
    if (error.code !== 'ENOENT') return false;
  }
  try {
    return Date.now() - statSync(lockDir).mtimeMs > lockWithoutPidMs;
  } catch {
    return false;
  }
}

/** What a person should read instead of a stack trace. */
function Sentence(message) {
  this.message = message;
}

function fail(sentence) {
  throw new Sentence(sentence);
}
