import { setTimeout as sleep } from 'node:timers/promises';

/** What a failpoint tells of the moment it was hit at. */
export type FailpointInfo = Readonly<Record<string, unknown>>;
type Action = (info: FailpointInfo) => void | Promise<void>;

/** The error that a failpoint with the action `error` throws. */
export class FailpointError extends Error {
  constructor(name: string) {
    super(`failpoint ${name}`);
    this.name = 'FailpointError';
  }
}

/**
 * Named places where a test breaks the process. Callers write
 * `if (failpoints.on) await failpoints.hit('order.after_commit', { orderIds })`,
 * which costs one property read while none is set.
 */
class Failpoints {
  /** Whether any failpoint is set. */
  on = false;
  readonly #actions = new Map<string, Action>();

  /**
   * Sets failpoints from `SLUICE_FAILPOINTS`: `name:action[@n]`, comma separated. Actions: `kill`
   * (SIGKILL), `stop` (SIGSTOP), `delay=<ms>`, `error`; `@n` acts from the n-th hit on.
   *
   * @returns the parts that were not understood
   */
  configure(text: string): string[] {
    const wrong: string[] = [];
    for (const part of text.split(',').filter((candidate) => candidate.trim() !== '')) {
      const match = /^([\w.]+):(kill|stop|error|delay=(\d{1,6}))(?:@(\d{1,6}))?$/.exec(part.trim());
      if (!match) {
        wrong.push(part);
        continue;
      }
      const [, name = '', action = '', delayMs, from = '1'] = match;
      this.set(name, fromHit(Number(from), actionOf(name, action, Number(delayMs ?? 0))));
    }
    return wrong;
  }

  /** Sets one failpoint; tests pass a function that waits, throws or looks. */
  set(name: string, action: Action): void {
    this.#actions.set(name, action);
    this.on = true;
  }

  /** Removes one failpoint, or all of them. */
  clear(name?: string): void {
    if (name === undefined) this.#actions.clear();
    else this.#actions.delete(name);
    this.on = this.#actions.size > 0;
  }

  async hit(name: string, info: FailpointInfo = {}): Promise<void> {
    await this.#actions.get(name)?.(info);
  }
}

export const failpoints = new Failpoints();

function actionOf(name: string, action: string, delayMs: number): Action {
  if (action === 'kill') return () => void process.kill(process.pid, 'SIGKILL');
  if (action === 'stop') return () => void process.kill(process.pid, 'SIGSTOP');
  if (action === 'error') {
    return () => {
      throw new FailpointError(name);
    };
  }
  return () => sleep(delayMs);
}

function fromHit(n: number, action: Action): Action {
  let hits = 0;
  return (info) => {
    hits += 1;
    return hits >= n ? action(info) : undefined;
  };
}
