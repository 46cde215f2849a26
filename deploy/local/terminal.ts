/** Lines for a person: one per step, and a sign of life every few seconds while a long one runs. */
export type Terminal = {
  /** Text as it is. */
  write(text: string): void;
  /** A line of its own. */
  say(line: string): void;
  /** Runs a step; prints its name, what it answers (short text) and the time it took. */
  step<T>(
    name: string,
    work: (say: (line: string) => void) => Promise<T>,
    summary?: (result: T) => string,
  ): Promise<T>;
};

const signOfLifeMs = 5_000;
const nameWidth = 14;

export function createTerminal(write: (text: string) => void = writeStdout): Terminal {
  const say = (line: string): void => write(`${line}\n`);
  return {
    write,
    say,
    async step(name, work, summary) {
      const start = performance.now();
      const elapsed = (): string => `${((performance.now() - start) / 1000).toFixed(1)} s`;
      const label = name.padEnd(nameWidth);
      const alive = setInterval(() => say(`  …  ${label} still at it, ${elapsed()}`), signOfLifeMs);
      try {
        const result = await work((line) => say(`  …  ${label} ${line}`));
        say(`  ok ${label} ${summary === undefined ? '' : `${summary(result)}  `}(${elapsed()})`);
        return result;
      } finally {
        clearInterval(alive);
      }
    },
  };
}

function writeStdout(text: string): void {
  process.stdout.write(text);
}
