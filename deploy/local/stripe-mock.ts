import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from './failure.ts';
import { installPackages } from './install-packages.ts';
import { sharedCacheDir } from './places.ts';
import { freePort } from './port.ts';
import { lastLinesOf, type ManagedProcess, spawnLogged, waitUntilReady } from './process.ts';
import { findProgram } from './programs.ts';

/** Stripe's own mock server; the pinned release, and the last one that a Go before 1.22 (Debian 12) builds. */
const release = 'v0.203.0';
const releaseForOldGo = 'v0.148.0';
const goMinorForRelease = 22;
const buildTimeoutMs = 10 * 60_000;
const readyTimeoutMs = 30_000;
/** Debian puts it here without linking it into the PATH of every user, as Go's own archive does. */
const goDirs = ['/usr/local/go/bin', '/usr/lib/go/bin'];

export type StripeMock = ManagedProcess & {
  /** Where its HTTP API is. */
  readonly url: string;
};

/** Starts stripe-mock on free ports of loopback; builds it first where that has not been done. */
export async function startStripeMock(dir: string): Promise<StripeMock> {
  const command = await requireStripeMock();
  const [http, https] = [await freePort(), await freePort()];
  const url = `http://127.0.0.1:${http}`;
  mkdirSync(dir, { recursive: true });
  const child = await spawnLogged({
    name: 'stripe-mock',
    command,
    // Without both it would also listen on ports of its own choice, beyond loopback.
    args: ['-http-addr', `127.0.0.1:${http}`, '-https-addr', `127.0.0.1:${https}`],
    logFile: join(dir, 'stripe-mock.log'),
    recordDir: dir,
  });
  await waitUntilReady({
    child,
    // It wants a key for everything; that it answers at all is enough.
    probe: async () => (await fetch(url)).status > 0,
    timeoutMs: readyTimeoutMs,
  });
  return { ...child, url };
}

/**
 * The program, built by `go install` on first use into the cache that npm start and npm test share.
 *
 * @throws Failure if there is no Go and none may be installed, or it cannot build this
 */
export async function requireStripeMock(
  say: (line: string) => void = () => {},
  signal?: AbortSignal,
): Promise<string> {
  await installPackages({
    missing: () => (findGo() === undefined ? ['golang-go'] : []),
    byHand: 'install Go 1.22 or later by its own means',
    logsDir: sharedCacheDir,
    say,
    signal,
  });
  const go = findGo() as string;
  const version = goMinor(go) >= goMinorForRelease ? release : releaseForOldGo;
  const dir = join(sharedCacheDir, `stripe-mock-${version}`);
  const program = join(dir, 'stripe-mock');
  if (existsSync(program)) return program;
  say(`building stripe-mock ${version} with Go`);
  // Per process: two runs may build at the same time, and the first to finish wins.
  const partial = `${dir}.partial-${process.pid}`;
  try {
    await build(go, version, partial, signal);
    if (!existsSync(dir)) renameSync(partial, dir);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
  return program;
}

async function build(
  go: string,
  version: string,
  dir: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const logFile = join(sharedCacheDir, 'stripe-mock.log');
  rmSync(logFile, { force: true });
  mkdirSync(dir, { recursive: true });
  const child = await spawnLogged({
    name: 'go install',
    command: go,
    args: ['install', `github.com/stripe/stripe-mock@${version}`],
    env: { ...process.env, GOBIN: dir },
    cwd: dir,
    logFile,
    signal,
  });
  const stop = (): void => void child.stop();
  signal?.addEventListener('abort', stop, { once: true });
  const bound = setTimeout(stop, buildTimeoutMs);
  const exit = await child.exited;
  clearTimeout(bound);
  signal?.removeEventListener('abort', stop);
  if (exit.code === 0) return;
  throw new Failure(
    `${go} could not build stripe-mock ${version} (${exit.signal ?? `exit code ${exit.code}`}): is the network or a Go module proxy (GOPROXY) reachable? Its log: ${logFile}`,
    lastLinesOf(logFile),
  );
}

function findGo(): string | undefined {
  const found = findProgram('go');
  return found ?? goDirs.map((dir) => join(dir, 'go')).find((path) => existsSync(path));
}

/** 26 for "go version go1.26.8 linux/amd64"; 0 if it cannot be told. */
function goMinor(go: string): number {
  const { stdout } = spawnSync(go, ['version'], { encoding: 'utf8', timeout: 20_000 });
  return Number(/go1\.(\d+)/.exec(stdout ?? '')?.[1] ?? 0);
}
