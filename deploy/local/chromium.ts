import { installPackages } from './install-packages.ts';
import { sharedCacheDir } from './places.ts';
import { findProgram } from './programs.ts';

/** Under these names distributions and Google install it. */
const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/**
 * Flags for a browser that tests drive: as root it has no sandbox of its own, /dev/shm is small in containers, and it is
 * not to talk to anybody but the page.
 */
export const chromiumArgs = [
  '--no-sandbox',
  '--disable-dev-shm-usage',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** The full path of a Chromium, installed through apt-get where there is none. @throws Failure if it may not */
export async function requireChromium(
  say: (line: string) => void = () => {},
  signal?: AbortSignal,
): Promise<string> {
  await installPackages({
    missing: () => (find() === undefined ? ['chromium'] : []),
    byHand: 'install Chromium or Google Chrome by its own means',
    logsDir: sharedCacheDir,
    say,
    signal,
  });
  return find() as string;
}

function find(): string | undefined {
  for (const name of names) {
    const path = findProgram(name);
    if (path !== undefined) return path;
  }
  return undefined;
}
