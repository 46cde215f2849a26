import { type Breaker, type BreakerOptions, createBreaker } from '../runtime/breaker.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { isAnswer, Refusal } from '../runtime/refusals.ts';

/** A circuit for calls of one kind that opens when the provider is unwell, and for no single payment. */
export interface ProviderCircuit {
  /**
   * @param subject the payment, session or refund that the call is about
   * @throws Refusal DEPENDENCY_DOWN while it is open; else what `call` threw
   */
  run<Result>(subject: string, call: () => Promise<Result>, deadline: Deadline): Promise<Result>;
  readonly open: boolean;
  stop(): void;
}

/** A caller that came with hardly any time says nothing about the provider by running out of it. */
const fairBudgetMs = 500;
/** A provider that answers one call while it is silent to so many is alive. */
const silentPerAnswer = 10;
/** Subjects that failed lately and are remembered: those of some minutes of a provider that is away. */
const subjectsMax = 10_000;
const rememberedMs = 600_000;

export function createProviderCircuit(options: BreakerOptions): ProviderCircuit {
  const breaker: Breaker = createBreaker(options);
  const failed = new FailedSubjects();
  let answered = 0;
  let unanswered = 0;
  return {
    async run(subject, call, deadline) {
      if (deadline.passed) {
        throw new Refusal('OVERLOADED', 'The time ran out before the call was made');
      }
      const hasty = deadline.leftMs() < fairBudgetMs;
      const before = { answered, unanswered };
      const outcome = await breaker.fire(async () => {
        try {
          const result = await call();
          answered += 1;
          failed.delete(subject);
          return { result };
        } catch (error) {
          if (isAnswer(error)) {
            if (!isOwnBound(error)) answered += 1;
            return { error };
          }
          if (hasty && deadline.passed) return { error };
          unanswered += 1;
          // It answered others meanwhile, so this is about the one payment; and what failed before is no news.
          const silent = unanswered - before.unanswered;
          const isAlive = (answered - before.answered) * silentPerAnswer >= silent;
          const isKnown = failed.add(subject);
          if (isAlive || isKnown) return { error };
          throw error;
        }
      });
      if ('error' in outcome) throw outcome.error;
      return outcome.result;
    },
    get open() {
      return breaker.open;
    },
    stop: () => breaker.stop(),
  };
}

/** Whether nobody was asked, for lack of time. */
function isOwnBound(error: unknown): boolean {
  return error instanceof Refusal && error.reason === 'OVERLOADED' && !error.answered;
}

/** Subjects whose calls got no answer, each for ten minutes. */
class FailedSubjects {
  readonly #atMs = new Map<string, number>();

  /** @returns whether it was there */
  add(subject: string): boolean {
    const nowMs = performance.now();
    const isKnown = nowMs - (this.#atMs.get(subject) ?? Number.NEGATIVE_INFINITY) < rememberedMs;
    this.#atMs.delete(subject);
    this.#atMs.set(subject, nowMs);
    for (const oldest of this.#atMs.keys()) {
      if (this.#atMs.size <= subjectsMax) break;
      this.#atMs.delete(oldest);
    }
    return isKnown;
  }

  delete(subject: string): void {
    this.#atMs.delete(subject);
  }
}
