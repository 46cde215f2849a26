import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { Failure } from './failure.ts';
import { cachedKafkaJars } from './kafka-jars.ts';
import { lastLinesOf, spawnLogged } from './process.ts';
import { findProgram } from './programs.ts';

const installTimeoutMs = 20 * 60_000;
const javaMajorMin = 17;
const versionTimeoutMs = 20_000;

/** Which servers are to be run here; the others exist elsewhere. */
export type WantedServers = { redis: boolean; database: boolean; kafka: boolean };

export type InstallOptions = {
  wanted: WantedServers;
  /** apt-get's output is written to install-packages.log in here. */
  logsDir: string;
  say: (line: string) => void;
  signal?: AbortSignal | undefined;
};

/** Debian packages for the programs that this machine lacks; empty when nothing is missing. */
export function missingPackages(wanted: WantedServers): string[] {
  const packages: string[] = [];
  if (wanted.redis && findProgram('redis-server') === undefined) packages.push('redis-server');
  if (
    wanted.database &&
    findProgram('mariadbd') === undefined &&
    findProgram('mysqld') === undefined
  ) {
    packages.push('mariadb-server');
  }
  if (wanted.kafka && !hasJava()) packages.push('openjdk-17-jre-headless');
  // Maven is needed once, to fetch Kafka.
  if (wanted.kafka && cachedKafkaJars() === undefined && findProgram('mvn') === undefined) {
    packages.push('maven');
  }
  return packages;
}

/** Installs what is missing through apt-get, without starting any of it as a service. A Failure says what to do where it may not. */
export async function installMissingPackages(options: InstallOptions): Promise<void> {
  await installPackages({
    ...options,
    missing: () => missingPackages(options.wanted),
    byHand:
      'install Redis 7, MariaDB 10.11 (or MySQL 8), Java 17 and Maven by its own means, or set SLUICE_REDIS_URL, SLUICE_MYSQL_URLS and SLUICE_KAFKA_BROKERS to servers that exist',
  });
}

export type PackagesOptions = Omit<InstallOptions, 'wanted'> & {
  /** Debian packages for what this machine lacks, asked before and after. */
  missing: () => string[];
  /** What to do on a machine without apt-get, as the end of a sentence. */
  byHand: string;
};

/** Installs Debian packages through apt-get. A Failure says what to do where it may not. */
export async function installPackages(options: PackagesOptions): Promise<void> {
  const { say, signal, byHand } = options;
  const missing = options.missing();
  if (missing.length === 0) return;
  if (findProgram('apt-get') === undefined) {
    throw new Failure(`This machine lacks ${missing.join(', ')} and has no apt-get: ${byHand}.`);
  }
  const asRoot = rootCommand();
  if (asRoot === undefined) {
    throw new Failure(
      `This machine lacks ${missing.join(', ')}, and this user may not install them. Run this, then try again:`,
      [`sudo apt-get update && sudo apt-get install --no-install-recommends ${missing.join(' ')}`],
    );
  }
  say(`installing with apt-get: ${missing.join(', ')} (their services are not started)`);
  const logFile = join(options.logsDir, 'install-packages.log');
  const [command = '', ...args] = [...asRoot, 'sh', '-c', installScript, 'sh', ...missing];
  const apt = await spawnLogged({ name: 'apt-get', command, args, logFile });
  const interrupt = (): void => void apt.stop();
  signal?.addEventListener('abort', interrupt, { once: true });
  const bound = setTimeout(interrupt, installTimeoutMs);
  const { code } = await apt.exited;
  clearTimeout(bound);
  signal?.removeEventListener('abort', interrupt);
  if (code !== 0) {
    throw new Failure(
      `apt-get could not install ${missing.join(', ')}. Its log: ${logFile}`,
      lastLinesOf(logFile),
    );
  }
  const still = options.missing();
  if (still.length > 0) {
    throw new Failure(
      `apt-get reported success, yet ${still.join(', ')} is still missing. Its log: ${logFile}`,
    );
  }
}

/**
 * Debian starts a server's service as soon as its package is installed; policy-rc.d is its switch against that,
 * put there only for the time of this installation. Newer releases have a later Java under another name.
 */
const installScript = `
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\\nexit 101\\n' > "$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update
wanted=''
for package in "$@"; do
  if [ "$package" = openjdk-17-jre-headless ] && ! apt-cache show "$package" > /dev/null 2>&1; then
    package=default-jre-headless
  fi
  wanted="$wanted $package"
done
apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $wanted
`;

/** How to run a command as root without being asked anything; undefined where that is not allowed. */
function rootCommand(): string[] | undefined {
  if (process.getuid?.() === 0) return ['env'];
  const sudo = findProgram('sudo');
  if (sudo === undefined) return undefined;
  const { status } = spawnSync(sudo, ['-n', 'true'], { timeout: versionTimeoutMs });
  return status === 0 ? [sudo, '-n'] : undefined;
}

/** macOS has a `java` that only says that there is none, and an old one would fail later with a class version. */
function hasJava(): boolean {
  const java = findProgram('java');
  if (java === undefined) return false;
  const { stderr } = spawnSync(java, ['-version'], {
    encoding: 'utf8',
    timeout: versionTimeoutMs,
  });
  // 'openjdk version "17.0.15" 2025-04-15'; before Java 9 it was "1.8.0".
  const major = /version "(\d+)/.exec(stderr ?? '')?.[1];
  return Number(major ?? 0) >= javaMajorMin;
}
