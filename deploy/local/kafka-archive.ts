import { existsSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startKafka } from './kafka.ts';
import { classArchiveFile, kafkaJars } from './kafka-jars.ts';
import { freePort } from './port.ts';

/** The archive is written when the broker ends, which takes some seconds of its own. */
const writeGraceMs = 60_000;

/** Fetches Kafka's jars and makes the archive of its classes, where either is missing. Done once per checkout. */
export async function prepareKafka(
  say: (line: string) => void,
  signal?: AbortSignal,
): Promise<void> {
  await kafkaJars(say, signal);
  if (existsSync(classArchiveFile())) return;
  say('archiving its classes, so that it starts in half the time');
  await makeClassArchive(signal);
}

/**
 * Runs a broker once and has Java keep the classes that it loaded, parsed and verified. Whoever is first wins when two
 * do this at once. Without the archive Kafka merely starts slower, so a Java that cannot make one is no failure.
 */
async function makeClassArchive(signal: AbortSignal | undefined): Promise<void> {
  const partial = `${classArchiveFile()}.partial-${process.pid}`;
  const dir = mkdtempSync(join(tmpdir(), 'sluice-kafka-'));
  try {
    const broker = await startKafka({
      dir,
      port: await freePort(2),
      signal,
      javaArgs: [`-XX:ArchiveClassesAtExit=${partial}`],
    });
    await broker.stop(writeGraceMs);
    if (existsSync(partial)) renameSync(partial, classArchiveFile());
  } finally {
    rmSync(dir, { recursive: true, force: true });
    rmSync(partial, { force: true });
  }
}
