import { ConfigError } from './env.ts';
import type { Log } from './log.ts';

/** A part that hangs in its stop must not keep the others from stopping. */
const stopDeadlineMs = 10_000;
/** npm forwards Ctrl-C a second time; within this time both are one. */
const repeatedSignalMs = 1_000;

/** What a process has started, in order; stopped in the reverse order, once. */
export class Lifecycle {
  readonly #log: Log;
  readonly #parts: { name: string; stop: () => void | Promise<void> }[] = [];
  #stopped: Promise<void> | undefined;

  constructor(log: Log) {
    this.#log = log;
  }

  /** Remembers how to stop a part that has just been started. */
  add(name: string, stop: () => void | Promise<void>): void {
    this.#parts.push({ name, stop });
  }

  /** Stops everything in reverse order; a part that fails or hangs is logged and passed over. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stopAll();
    return this.#stopped;
  }

  async #stopAll(): Promise<void> {
    for (const part of this.#parts.reverse()) {
      let timer: NodeJS.Timeout | undefined;
      const hung = new Promise<'hung'>((resolve) => {
        timer = setTimeout(resolve, stopDeadlineMs, 'hung');
      });
      try {
        const result = await Promise.race([part.stop(), hung]);
        if (result === 'hung') this.#log.warn({ part: part.name }, 'did not stop in time');
      } catch (error) {
        this.#log.warn({ err: error, part: part.name }, 'failed to stop');
      } finally {
        clearTimeout(timer);
      }
    }
  }
}

/**
 * Runs a service's process: starts it, waits for SIGINT or SIGTERM, stops it in order. A bad
 * setting ends the process with one sentence per setting and exit code 1.
 */
export async function runMain(
  service: string,
  start: () => Promise<{ lifecycle: Lifecycle; log: Log }>,
): Promise<void> {
  let running: Awaited<ReturnType<typeof start>>;
  try {
    running = await start();
  } catch (error) {
    reportFailedStart(service, error);
    process.exit(1);
  }
  const { lifecycle, log } = running;
  let firstSignalAtMs: number | undefined;
  const onSignal = (signal: string): void => {
    if (firstSignalAtMs === undefined) {
      firstSignalAtMs = performance.now();
      log.info({ signal }, 'stopping');
      void lifecycle.stop().then(() => process.exit(0));
    } else if (performance.now() - firstSignalAtMs > repeatedSignalMs) {
      log.warn({ signal }, 'stopping at once');
      process.exit(1);
    }
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  process.on('unhandledRejection', (error) => {
    // Nobody knows what state this left behind; everything durable settles after a restart.
    log.fatal({ err: error }, 'unhandled rejection');
    process.exit(1);
  });
  log.info({ pid: process.pid }, 'started');
}

function reportFailedStart(service: string, error: unknown): void {
  if (error instanceof ConfigError) {
    for (const problem of error.problems) process.stderr.write(`${service}: ${problem}\n`);
    return;
  }
  const text = error instanceof Error ? error.message : String(error);
  process.stderr.write(`${service}: could not start: ${text}\n`);
  if (error instanceof Error && error.stack) process.stderr.write(`${error.stack}\n`);
}
