import { execFile } from 'node:child_process';
import {
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { Failure } from './failure.ts';
import { sharedCacheDir } from './places.ts';
import { lastLinesOf, spawnLogged } from './process.ts';
import { identityOf } from './process-identity.ts';
import { findProgram } from './programs.ts';

const run = promisify(execFile);

/** Its index and packages are some 70 MB. */
const fetchTimeoutMs = 10 * 60_000;
const queryTimeoutMs = 20_000;
/** Debian's suite that has MySQL; its releases have MariaDB alone. */
const suite = 'sid';

/** How MySQL is run: the command, and what its arguments begin with. */
export type MySqlProgram = { command: string; args: readonly string[] };

/**
 * Why there is no MySQL to test with on this machine, nor a way to get one; undefined where it is there or can be had.
 * Tests that need it are skipped with this reason.
 */
export async function whyNoMySql(): Promise<string | undefined> {
  if ((await installedMySql()) !== undefined || existsSync(rootDir()) || isDebian())
    return undefined;
  return 'this machine has no MySQL, and only on Debian is it fetched: install MySQL 8.4 or later, so that mysqld is found';
}

/**
 * MySQL's server: the machine's own, or, on Debian, the one of the suite `sid`, fetched once into a folder of the cache. Nothing
 * of the system is changed: the packages are unpacked, not installed, and run on their own C library.
 * @throws Failure with what to do, where it can be neither found nor fetched
 */
export async function mySqlProgram(
  say: (line: string) => void = () => {},
  signal?: AbortSignal,
): Promise<MySqlProgram> {
  const installed = await installedMySql();
  if (installed !== undefined) return { command: installed, args: [] };
  const root = rootDir();
  if (!existsSync(root)) await fetchMySql(root, say, signal);
  return programIn(root);
}

/** MariaDB brings a mysqld of its own. */
async function installedMySql(): Promise<string | undefined> {
  const mysqld = findProgram('mysqld');
  if (mysqld === undefined) return undefined;
  const { stdout } = await run(mysqld, ['--no-defaults', '--version'], { timeout: queryTimeoutMs });
  return /mariadb/i.test(stdout) ? undefined : mysqld;
}

/** Appears under this name only when complete. */
function rootDir(): string {
  return join(sharedCacheDir, `mysql-${suite}`);
}

function isDebian(): boolean {
  if (findProgram('apt-get') === undefined || !existsSync('/etc/os-release')) return false;
  return /^ID=debian$/m.test(readFileSync('/etc/os-release', 'utf8'));
}

async function fetchMySql(
  root: string,
  say: (line: string) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const reason = await whyNoMySql();
  if (reason !== undefined) throw new Failure(`MySQL cannot be started: ${reason}.`);
  say(`fetching MySQL from Debian's ${suite}, 70 MB`);
  removeAbandonedPartials();
  // Per process: several may fetch at the same time, and the first to finish wins.
  const partial = `${root}.partial-${process.pid}`;
  const logFile = join(sharedCacheDir, 'mysql-fetch.log');
  rmSync(logFile, { force: true });
  try {
    mkdirSync(join(partial, 'root'), { recursive: true });
    writeFileSync(join(partial, 'sources.list'), await sourceLine());
    const apt = await spawnLogged({
      name: 'apt-get',
      command: 'sh',
      args: ['-c', fetchScript, 'sh', partial],
      logFile,
      signal,
    });
    const stop = (): void => void apt.stop();
    signal?.addEventListener('abort', stop, { once: true });
    const bound = setTimeout(stop, fetchTimeoutMs);
    const { code } = await apt.exited;
    clearTimeout(bound);
    signal?.removeEventListener('abort', stop);
    if (code !== 0) {
      throw new Failure(
        `MySQL could not be fetched from Debian's suite ${suite}: is the machine's Debian mirror reachable? Its log: ${logFile}`,
        lastLinesOf(logFile),
      );
    }
    if (!existsSync(root)) renameSync(join(partial, 'root'), root);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

/** The machine's own mirror, another suite. */
async function sourceLine(): Promise<string> {
  const format = ['--format', '$(REPO_URI)', 'Created-By: Packages'];
  const { stdout } = await run('apt-get', ['indextargets', ...format], { timeout: queryTimeoutMs });
  const mirror = stdout.split('\n').find((uri) => uri !== '' && !/-security\/?$/.test(uri));
  const [keys] = globSync('/usr/share/keyrings/debian-archive-keyring.*');
  if (mirror === undefined || keys === undefined) {
    throw new Failure(
      'MySQL cannot be fetched: apt-get names no mirror, or the package debian-archive-keyring is missing.',
    );
  }
  return `deb [signed-by=${keys}] ${mirror} ${suite} main\n`;
}

/** Only the suite's index and these packages are read; apt's own lists, archives and status stay as they are. */
const fetchScript = `
set -eu
cd "$1"
mkdir -p lists/partial debs/partial
apt() {
  apt-get -o "Dir::Etc::sourcelist=$PWD/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::Lists=$PWD/lists" \
    -o "Dir::Cache::archives=$PWD/debs" -o Dir::State::status=/dev/null -o APT::Install-Recommends=0 \
    -o APT::Sandbox::User= -o Debug::NoLocking=1 -y "$@"
}
apt update
apt --download-only install mysql-server-core
for deb in debs/*.deb; do dpkg-deb -x "$deb" root; done
`;

/** Its own loader and libraries, because the machine's may be older. */
function programIn(root: string): MySqlProgram {
  const [loader] = globSync('**/ld-linux*.so.*', { cwd: root });
  const libraries = new Set(
    globSync('usr/lib*/**/*.so*', { cwd: root }).map((file) => join(root, dirname(file))),
  );
  if (loader === undefined)
    throw new Failure(`${root} is not whole: remove it, and it is fetched again.`);
  return {
    command: join(root, loader),
    args: [
      ...['--library-path', [...libraries].join(':'), join(root, 'usr/sbin/mysqld')],
      ...['--no-defaults', `--basedir=${root}/usr`, `--lc-messages-dir=${root}/usr/share/mysql`],
    ],
  };
}

/** What a fetch that was killed left behind. */
function removeAbandonedPartials(): void {
  for (const path of globSync(`mysql-${suite}.partial-*`, { cwd: sharedCacheDir })) {
    if (identityOf(Number(path.split('-').at(-1))) === undefined) {
      rmSync(join(sharedCacheDir, path), { recursive: true, force: true });
    }
  }
}
