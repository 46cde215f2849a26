import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from './failure.ts';
import { repositoryDir, sharedCacheDir } from './places.ts';
import { spawnLogged } from './process.ts';
import { identityOf } from './process-identity.ts';
import { requireProgram } from './programs.ts';

const pomFile = join(repositoryDir, 'deploy/local/kafka/pom.xml');
const downloadTimeoutMs = 10 * 60_000;

/** The folder with Kafka's jars, or undefined when they have not been fetched yet. */
export function cachedKafkaJars(): string | undefined {
  const dir = jarsDir();
  return existsSync(dir) ? dir : undefined;
}

/**
 * The folder with Kafka's jars (about 46, 44 MB), fetched through Maven on first use and shared by npm start and npm test.
 * The folder appears under its name only when complete; the name holds a digest of the pom, so another version is fetched anew.
 */
export async function kafkaJars(
  say: (line: string) => void = () => {},
  signal?: AbortSignal,
): Promise<string> {
  const dir = jarsDir();
  if (existsSync(dir)) return dir;
  const mvn = requireProgram('mvn');
  mkdirSync(sharedCacheDir, { recursive: true });
  say("fetching Kafka's jars through Maven, 44 MB");
  removeAbandonedPartials();
  // Per process: npm start and npm test may fetch at the same time, and the first to finish wins.
  const partial = `${dir}.partial-${process.pid}`;
  const logFile = join(sharedCacheDir, 'kafka-libs.log');
  rmSync(logFile, { force: true });
  const maven = await spawnLogged({
    name: 'mvn',
    command: mvn,
    args: [
      ...['-B', '-C', '-ntp', '-q', '-Dstyle.color=never', '-f', pomFile],
      ...['dependency:copy-dependencies', `-DoutputDirectory=${partial}`],
    ],
    logFile,
    signal,
  });
  const stop = (): void => void maven.stop();
  signal?.addEventListener('abort', stop, { once: true });
  const bound = setTimeout(stop, downloadTimeoutMs);
  try {
    const exit = await maven.exited;
    if (exit.code !== 0) {
      throw new Failure(
        `Maven could not fetch Kafka's jars (${exit.signal ?? `exit code ${exit.code}`}): is the network or a Maven mirror (~/.m2/settings.xml) reachable? Its log: ${logFile}`,
        readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(0, 6),
      );
    }
    if (!existsSync(dir)) renameSync(partial, dir);
  } finally {
    clearTimeout(bound);
    signal?.removeEventListener('abort', stop);
    rmSync(partial, { recursive: true, force: true });
  }
  return dir;
}

/** What a fetch that was killed left behind. */
function removeAbandonedPartials(): void {
  for (const entry of readdirSync(sharedCacheDir)) {
    const pid = /^kafka-libs-.*\.partial-(\d+)$/.exec(entry)?.[1];
    if (pid !== undefined && identityOf(Number(pid)) === undefined) {
      rmSync(join(sharedCacheDir, entry), { recursive: true, force: true });
    }
  }
}

/** Java's archive of the broker's classes, which kafka-archive.ts makes; it holds for jars in this very folder. */
export function classArchiveFile(): string {
  return join(jarsDir(), 'kafka.jsa');
}

function jarsDir(): string {
  const digest = createHash('sha256').update(readFileSync(pomFile)).digest('hex').slice(0, 12);
  return join(sharedCacheDir, `kafka-libs-${digest}`);
}
