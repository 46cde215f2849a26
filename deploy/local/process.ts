import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure, messageOf } from './failure.ts';
import { isStillThat, type ProcessIdentity } from './process-identity.ts';
import { forgetProcess, recordProcess } from './process-record.ts';

const pollIntervalMs = 50;
const defaultStopGraceMs = 10_000;
/** SIGKILL cannot be refused; longer than this means that the kernel itself is stuck (a dead disk). */
const killBoundMs = 5_000;
const logTailBytesMax = 16 * 1024;

export type Exit = { code: number | null; signal: NodeJS.Signals | null };

export type ManagedProcess = {
  readonly name: string;
  readonly pid: number;
  readonly logFile: string;
  /** Resolves, never rejects, when the process has ended, for whatever reason. */
  readonly exited: Promise<Exit>;
  /** False as soon as the end of the process was seen. */
  isRunning(): boolean;
  /** SIGTERM, then SIGKILL after the grace; resolves when the process is gone. May be called twice. */
  stop(graceMs?: number): Promise<void>;
  /** SIGKILL at once, for tests of crashes; resolves when the process is gone. */
  kill(): Promise<void>;
};

export type SpawnOptions = {
  /** Stands in sentences and in the record's file name. */
  name: string;
  command: string;
  args: readonly string[];
  /** stdout and stderr are appended here. */
  logFile: string;
  /** The whole environment of the child; default: ours. */
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Where the pid is recorded for a later start that has to clean up after a kill -9; default: nowhere. */
  recordDir?: string | undefined;
  /** Aborted already: nothing is started and a Failure thrown. Later aborts are the caller's to act on. */
  signal?: AbortSignal | undefined;
  /** What is sent by stop() before SIGKILL, and how long it may take. */
  stopSignal?: NodeJS.Signals;
  stopGraceMs?: number;
};

/**
 * Starts a process in a session of its own (a Ctrl-C in the terminal must not reach it: the order of stopping is ours)
 * with its output in a log file. Throws a Failure if it cannot be started at all.
 */
export async function spawnLogged(options: SpawnOptions): Promise<ManagedProcess> {
  if (options.signal?.aborted) throw interruptedFailure(options.name);
  mkdirSync(dirname(options.logFile), { recursive: true });
  const log = openSync(options.logFile, 'a');
  const child = spawn(options.command, [...options.args], {
    cwd: options.cwd,
    env: options.env ?? process.env,
    stdio: ['ignore', log, log],
    detached: true,
  });
  closeSync(log);
  let running = true;
  const exited = new Promise<Exit>((resolve) => {
    child.once('exit', (code, signal) => {
      running = false;
      if (options.recordDir !== undefined) forgetProcess(options.recordDir, options.name);
      resolve({ code, signal });
    });
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => {
      reject(new Failure(`${options.name} cannot be started: ${messageOf(error)}.`, [], error));
    });
  });
  const pid = child.pid as number;
  if (options.recordDir !== undefined) recordProcess(options.recordDir, options.name, pid);
  const end = async (signal: NodeJS.Signals, graceMs: number): Promise<void> => {
    if (!running) return;
    child.kill(signal);
    if (await endsWithin(exited, graceMs)) return;
    child.kill('SIGKILL');
    if (!(await endsWithin(exited, killBoundMs))) {
      throw new Failure(
        `${options.name} (pid ${pid}) did not end ${killBoundMs} ms after SIGKILL.`,
      );
    }
  };
  return {
    name: options.name,
    pid,
    logFile: options.logFile,
    exited,
    isRunning: () => running,
    stop: (graceMs = options.stopGraceMs ?? defaultStopGraceMs) =>
      end(options.stopSignal ?? 'SIGTERM', graceMs),
    kill: () => end('SIGKILL', killBoundMs),
  };
}

/** Stops a process that is not our child: SIGTERM, SIGKILL after the grace. Does nothing if the pid is another process by now. */
export async function stopByIdentity(
  identity: ProcessIdentity,
  graceMs: number = defaultStopGraceMs,
): Promise<void> {
  const gone = (): boolean => !isStillThat(identity);
  for (const [signal, boundMs] of [
    ['SIGTERM', graceMs],
    ['SIGKILL', killBoundMs],
  ] as const) {
    if (gone()) return;
    try {
      process.kill(identity.pid, signal);
    } catch (error) {
      // It ended between the look and the signal.
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return;
      throw error;
    }
    if (await becomesTrue(gone, boundMs)) return;
  }
  throw new Failure(`Process ${identity.pid} (${identity.commandLine}) did not end after SIGKILL.`);
}

export type ReadyOptions = {
  child: ManagedProcess;
  /** Says whether it answers; a rejection counts as "not yet" and is named if time runs out. */
  probe: () => Promise<boolean>;
  timeoutMs: number;
  /** Ends the waiting: the process is stopped and a Failure thrown. */
  signal?: AbortSignal | undefined;
};

/** Waits until the probe succeeds. A process that dies first, or takes too long, is a Failure with the end of its log; it is stopped. */
export async function waitUntilReady({
  child,
  probe,
  timeoutMs,
  signal,
}: ReadyOptions): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  let last: unknown;
  while (performance.now() < deadline) {
    if (signal?.aborted) {
      // Not SIGTERM: MariaDB loses one that comes early in its start. None of ours has work to finish yet.
      await child.kill();
      throw interruptedFailure(child.name);
    }
    if (!child.isRunning()) throw await diedFailure(child);
    try {
      if (await probe()) return;
    } catch (error) {
      last = error;
    }
    await sleep(pollIntervalMs);
  }
  await child.stop();
  const reason = last === undefined ? '' : ` (${messageOf(last)})`;
  throw new Failure(
    `${child.name} did not answer within ${Math.round(timeoutMs / 1000)} s${reason}. Its log: ${child.logFile}`,
    lastLinesOf(child.logFile),
  );
}

/** The sentence for a process that ended without being asked to. */
export async function diedFailure(child: ManagedProcess): Promise<Failure> {
  const { code, signal } = await child.exited;
  const how = signal === null ? `exit code ${code}` : signal;
  return new Failure(
    `${child.name} ended by itself (${how}). Its log: ${child.logFile}`,
    lastLinesOf(child.logFile),
  );
}

/** Polls a condition; false when it did not hold within the bound. */
export async function becomesTrue(
  condition: () => boolean | Promise<boolean>,
  boundMs: number,
): Promise<boolean> {
  const deadline = performance.now() + boundMs;
  for (;;) {
    if (await condition()) return true;
    if (performance.now() >= deadline) return false;
    await sleep(pollIntervalMs);
  }
}

/** The last lines of a log, at most 16 KiB of it; empty when there is none. */
export function lastLinesOf(logFile: string, linesMax = 12): string[] {
  if (!existsSync(logFile)) return [];
  const size = statSync(logFile).size;
  const length = Math.min(size, logTailBytesMax);
  const buffer = Buffer.alloc(length);
  const file = openSync(logFile, 'r');
  try {
    readSync(file, buffer, 0, length, size - length);
  } finally {
    closeSync(file);
  }
  return buffer.toString('utf8').trimEnd().split('\n').slice(-linesMax);
}

function interruptedFailure(name: string): Failure {
  return new Failure(`The start of ${name} was interrupted.`);
}

async function endsWithin(exited: Promise<Exit>, boundMs: number): Promise<boolean> {
  const timer = new AbortController();
  try {
    return await Promise.race([
      exited.then(() => true),
      sleep(boundMs, false, { signal: timer.signal }),
    ]);
  } finally {
    timer.abort();
  }
}
