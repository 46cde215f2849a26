import { relative } from 'node:path';
import { run } from 'node:test';
import { repositoryDir } from './places.ts';
import { createTestReport, type Tally } from './test-report.ts';

export type RunTestsOptions = {
  /** Full paths. */
  files: readonly string[];
  write: (text: string) => void;
  /** Counted up file by file, so that a run which ends early has counted what ran. */
  total: Tally;
  /** Of one test; a test may set its own. */
  testTimeoutMs?: number;
  /** A file's process must exit within this time after its last test: what is left over then is a leaked handle. */
  exitBoundMs?: number;
  /** Ends the run; what has not run is not counted. */
  signal?: AbortSignal;
};

const defaultTestTimeoutMs = 120_000;
/** Includes what a file's last hooks take to stop servers and drop schemas. */
const defaultExitBoundMs = 60_000;
/** Before the first test, that is while a file imports and brings up what it needs. */
const beginBoundMs = 180_000;
/** While a test runs: its own timeout comes first, unless it blocks the event loop. */
const silenceBoundMs = 15 * 60_000;
const watchEveryMs = 250;

/** Runs test files one after the other, each in a process of its own, and reports as they go. */
export async function runTestFiles(options: RunTestsOptions): Promise<void> {
  const { total } = options;
  for (const file of options.files) {
    if (options.signal?.aborted) break;
    const { passed, failed, skipped } = await runTestFile(file, options);
    total.passed += passed;
    total.failed += failed;
    total.skipped += skipped;
  }
}

async function runTestFile(file: string, options: RunTestsOptions): Promise<Tally> {
  const { signal } = options;
  const report = createTestReport(relative(repositoryDir, file), options.write);
  const overdue = new AbortController();
  const outOfTime = (reason: string): void => overdue.abort(reason);
  // Not AbortSignal.any: the combined signal is collected as garbage while run() still relies on it (seen on Node 26.10).
  const end = new AbortController();
  const endRun = (): void => end.abort();
  overdue.signal.addEventListener('abort', endRun);
  signal?.addEventListener('abort', endRun);
  let lastEventAt = performance.now();
  let begun = false;
  const watch = setInterval(() => {
    const silentMs = performance.now() - lastEventAt;
    if (overdue.signal.aborted) return;
    if (report.isTestRunning()) {
      if (silentMs > silenceBoundMs) outOfTime('it blocked: no test ended for 15 minutes');
    } else if (begun) {
      const boundMs = options.exitBoundMs ?? defaultExitBoundMs;
      if (silentMs > boundMs) {
        outOfTime(
          `its process did not exit within ${boundMs / 1000} s after its last test: a handle is leaked`,
        );
      }
    } else if (silentMs > beginBoundMs) {
      outOfTime(`it began no test within ${beginBoundMs / 1000} s`);
    }
  }, watchEveryMs);
  try {
    const events = run({
      files: [file],
      concurrency: 1,
      isolation: 'process',
      timeout: options.testTimeoutMs ?? defaultTestTimeoutMs,
      signal: end.signal,
    });
    for await (const event of events) {
      lastEventAt = performance.now();
      // The end of an aborted process is told in our own words below.
      if (overdue.signal.aborted) continue;
      report.accept(event);
      begun ||= report.isTestRunning();
    }
  } finally {
    clearInterval(watch);
    signal?.removeEventListener('abort', endRun);
  }
  if (overdue.signal.aborted) report.fail(String(overdue.signal.reason));
  return report.finish();
}
