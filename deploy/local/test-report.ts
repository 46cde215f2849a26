import type { TestEvent } from 'node:test/reporters';
import { inspect } from 'node:util';

/** What a run counts. A test that has subtests is not counted itself, unless it fails by itself. */
export type Tally = { passed: number; failed: number; skipped: number };

/** Output of a test file is shown only if the file fails, and then its end. */
const shownOutputBytesMax = 16 * 1024;
const durationShownFromMs = 100;
const nodeInternalFrame = /^\s+at .*\(?node:(internal|async_hooks)/;

export type TestReport = {
  /** Takes the events of one file, as run() of node:test emits them. */
  accept(event: TestEvent): void;
  /** Says something about the file that no test says ("it did not exit"), as a failure. */
  fail(sentence: string): void;
  /** Whether a test is running; file and suite do not count. */
  isTestRunning(): boolean;
  /** To be called after the last event: judges the file as a whole and returns the counts. */
  finish(): Tally;
};

/** Reports one file: its path, a line per test, the details of what failed. `write` gets whole lines. */
export function createTestReport(file: string, write: (text: string) => void): TestReport {
  const tally: Tally = { passed: 0, failed: 0, skipped: 0 };
  const running = new Map<number, string>();
  /** Tests seen at each depth since the last parent above them ended: they report before their parent does. */
  const seenAtDepth: number[] = [];
  let output = '';
  write(`\n${file}\n`);

  const fail = (sentence: string): void => {
    tally.failed += 1;
    write(`  FAILED  ${sentence}\n`);
  };

  const onResult = (passed: boolean, data: TestResult): void => {
    const isParent = (seenAtDepth[data.nesting + 1] ?? 0) > 0;
    seenAtDepth.length = data.nesting + 1;
    seenAtDepth[data.nesting] = (seenAtDepth[data.nesting] ?? 0) + 1;
    const indent = '  '.repeat(data.nesting + 1);
    const isSkipped = isSet(data.skip) || isSet(data.todo);
    if (passed && (isParent || data.details.type === 'suite')) {
      write(`${indent}        ${data.name}\n`);
    } else if (isSkipped) {
      tally.skipped += 1;
      write(`${indent}skipped ${data.name}${reasonOf(data)}\n`);
    } else if (passed) {
      tally.passed += 1;
      write(`${indent}ok      ${data.name}${durationOf(data)}\n`);
    } else if (data.details.error?.failureType === 'subtestsFailed') {
      write(`${indent}FAILED  ${data.name} (see its tests above)\n`);
    } else {
      tally.failed += 1;
      write(`${indent}FAILED  ${data.name}${durationOf(data)}\n`);
      write(indented(describeError(data.details.error), `${indent}          `));
    }
  };

  const onFileFailure = ({ details: { error } }: TestResult): void => {
    if (error?.failureType === 'hookFailed') {
      fail('a hook of the file failed');
      write(indented(describeError(error), '            '));
      return;
    }
    const how = error?.exitCode == null ? error?.signal : `exit code ${error.exitCode}`;
    const during = [...running.values()].map((name) => `"${name}"`).join(', ');
    fail(
      `the file's process failed${how === undefined ? '' : ` (${how})`}${during === '' ? '' : `, during ${during}`}`,
    );
  };

  return {
    fail,
    isTestRunning: () => running.size > 0,
    accept({ type, data }) {
      if (type === 'test:stdout' || type === 'test:stderr') {
        output = (output + data.message).slice(-shownOutputBytesMax);
      }
      // A file appears as a test of its own only when it crashed or held no tests; finish() sees the latter.
      // A test's own words, its seed for example, and errors that came after their test had passed (the file fails by them).
      if (type === 'test:diagnostic' && data.file !== undefined) {
        write(`          # ${data.message}\n`);
      }
      if (data === undefined || !('name' in data) || !('testId' in data)) return;
      if (isFileItself(data)) {
        if (type === 'test:fail') onFileFailure(data as TestResult);
        return;
      }
      if (type === 'test:dequeue') running.set(data.testId as number, data.name as string);
      if (type === 'test:complete') running.delete(data.testId as number);
      if (type === 'test:pass') onResult(true, data as TestResult);
      if (type === 'test:fail') onResult(false, data as TestResult);
    },
    finish() {
      const { passed, failed, skipped } = tally;
      if (passed + failed + skipped === 0) fail('the file holds no test');
      if (tally.failed > 0 && output.trim() !== '') {
        write(`  What it printed (the end):\n${indented(output.trimEnd(), '    | ')}`);
      }
      return { ...tally };
    },
  };
}

/** The last line of a run: "3 passed, 1 failed, 2 skipped". */
export function summaryLine({ passed, failed, skipped }: Tally): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

type TestFailure = Error & { failureType?: string; exitCode?: number; signal?: string };

type TestResult = {
  name: string;
  nesting: number;
  skip?: string | boolean;
  todo?: string | boolean;
  details: { duration_ms: number; type?: string; error?: TestFailure };
};

function isFileItself(data: object): boolean {
  const { name, file, nesting } = data as { name: string; file?: string; nesting: number };
  return nesting === 0 && name === file;
}

/** node:test wraps what a test threw; the wrapper says nothing more, except for a timeout and its like. */
function describeError(error: TestFailure | undefined): string {
  const cause = error?.cause;
  if (!(cause instanceof Error)) return String(cause ?? error?.message ?? 'no reason given');
  // An assertion's message holds the difference already; its properties would repeat it.
  const text = cause.name === 'AssertionError' ? (cause.stack ?? cause.message) : inspect(cause);
  return text
    .split('\n')
    .filter((line) => !nodeInternalFrame.test(line))
    .join('\n');
}

function isSet(flag: string | boolean | undefined): boolean {
  return flag !== undefined && flag !== false;
}

function reasonOf({ skip, todo }: TestResult): string {
  const reason = typeof skip === 'string' ? skip : todo;
  return typeof reason === 'string' && reason !== '' ? `  # ${reason}` : '';
}

function durationOf({ details }: TestResult): string {
  const ms = details.duration_ms;
  return ms < durationShownFromMs ? '' : `  (${(ms / 1000).toFixed(1)} s)`;
}

function indented(text: string, indent: string): string {
  return text
    .split('\n')
    .map((line) => `${indent}${line}\n`)
    .join('');
}
