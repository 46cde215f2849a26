import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { requireLibfaketime } from '../../deploy/local/libfaketime.ts';

/** A clock that processes are given, and that a test sets while they run. */
export interface FakeClock {
  /** Variables of the processes that go by it. Their monotonic clock stays the machine's. */
  readonly env: Readonly<Record<string, string>>;
  /** Sets it to so many seconds ahead of the machine's clock, behind it if negative; it steps at once. */
  set(aheadSeconds: number): void;
  /** Removes its file, when no process goes by it any more. */
  remove(): void;
}

/** @throws Failure if libfaketime is missing and may not be installed */
export async function createFakeClock(): Promise<FakeClock> {
  const preload = await requireLibfaketime();
  const dir = mkdtempSync(join(tmpdir(), 'sluice-clock-'));
  const file = join(dir, 'offset');
  const set = (aheadSeconds: number): void => {
    // Renamed, so that nobody reads half of it.
    const fresh = `${file}.new`;
    writeFileSync(fresh, `${aheadSeconds < 0 ? '' : '+'}${aheadSeconds}\n`);
    renameSync(fresh, file);
  };
  set(0);
  return {
    env: {
      LD_PRELOAD: preload,
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: '1',
      // It is read under both names.
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      DONT_FAKE_MONOTONIC: '1',
    },
    set,
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
}
