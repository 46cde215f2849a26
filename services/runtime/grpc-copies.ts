import { type Channel, connectivityState } from '@grpc/grpc-js';
import type { Breaker } from './breaker.ts';
import { type CopyState, showCopies } from './copy-states.ts';
import type { Deadline } from './deadline.ts';
import { openChannel, type Target, targetsOf } from './grpc-channel.ts';
import { NeverSent } from './never-sent.ts';

/** A connection that is being made is waited for this long, in milliseconds. */
const connectMs = 2_000;
/** A copy that owes answers and gave none for so long, in milliseconds, is asked only if all others do likewise … */
const silentMs = 300;
/** … and one that let a call run into its deadline or lost it is passed over for so long. */
const avoidMs = 1_000;

/** One copy of a service, or all that are behind one DNS name, and what we know of it. */
export interface Copy {
  readonly target: Target;
  readonly channel: Channel;
  /** One for each class of methods. */
  readonly breakers: Map<string, Breaker>;
  /** Whether a connection is up. */
  readonly connected: boolean;
  /** What is under way there. */
  load: number;
}

interface Known extends Copy {
  state: connectivityState;
  connected: boolean;
  /** Answers that it owes. */
  owing: number;
  /** When it last answered, or began to owe; by `performance.now()`. */
  silentSinceMs: number;
  avoidedUntilMs: number;
}

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** How a call ended, as far as it says something about the copy. */
export type CallEnd = 'answered' | 'unanswered' | 'untouched';

/**
 * The copies of a service, each with a channel of its own, so that one that is frozen, slow or gone
 * harms what it has in hand and nothing else: a call goes to a copy that is connected, does not owe
 * answers for long, and has the least to do.
 */
export class ServiceCopies {
  readonly all: readonly Copy[];
  readonly #known: readonly Known[];
  readonly #waiters = new Set<Waiter>();
  readonly #hide: () => void;
  #turn = 0;
  #closed = false;

  /** @throws ConfigError if the addresses cannot be used together */
  constructor(addresses: readonly string[]) {
    this.#known = targetsOf(addresses).map((target) => ({
      target,
      channel: openChannel(target),
      breakers: new Map(),
      state: connectivityState.IDLE,
      connected: false,
      load: 0,
      owing: 0,
      silentSinceMs: 0,
      avoidedUntilMs: 0,
    }));
    this.all = this.#known;
    for (const copy of this.#known) this.#follow(copy);
    this.#hide = showCopies(() => this.#known.map((copy) => stateOf(copy, performance.now())));
  }

  /** Whether a connection to any of them is up. */
  get connected(): boolean {
    return this.#known.some(({ connected }) => connected);
  }

  /** The copy that the next call should go to, among those that `isUsable` allows. */
  pick(isUsable: (copy: Copy) => boolean): Copy | undefined {
    const nowMs = performance.now();
    const count = this.#known.length;
    this.#turn = (this.#turn + 1) % count;
    let best: Known | undefined;
    let bestDoubt = 0;
    for (let index = 0; index < count; index += 1) {
      const copy = this.#known[(this.#turn + index) % count] as Known;
      if (!isUsable(copy)) continue;
      const doubt = doubtOf(copy, nowMs);
      if (best && (doubt > bestDoubt || (doubt === bestDoubt && copy.load >= best.load))) continue;
      best = copy;
      bestDoubt = doubt;
    }
    return best;
  }

  /**
   * Says that a copy is asked something.
   *
   * @returns to be called once, when it has answered or will not
   */
  asked(copy: Copy): (end: CallEnd) => void {
    const known = copy as Known;
    if (known.owing === 0) known.silentSinceMs = performance.now();
    known.owing += 1;
    return (end) => {
      const nowMs = performance.now();
      known.owing -= 1;
      if (end === 'answered') known.silentSinceMs = nowMs;
      if (end === 'unanswered') known.avoidedUntilMs = nowMs + avoidMs;
    };
  }

  /**
   * Waits for a connection to any of them, 2 s at most and no longer than the deadline.
   *
   * @throws NeverSent if there is none in time, or the last attempts of all have just failed
   */
  waitUntilConnected(deadline: Deadline): Promise<void> {
    return new Promise((resolve, reject) => {
      const waitMs = Math.max(0, Math.min(connectMs, deadline.leftMs()));
      const waiter = {
        resolve,
        reject,
        timer: setTimeout(() => this.#giveUp(waiter, 'in time'), waitMs),
      };
      this.#waiters.add(waiter);
      for (const copy of this.#known) this.#wake(copy);
      this.#tellWaiters();
    });
  }

  close(): void {
    this.#closed = true;
    this.#hide();
    for (const { channel, breakers } of this.#known) {
      for (const breaker of breakers.values()) breaker.stop();
      channel.close();
    }
  }

  /** Follows the state of a channel until it is closed. */
  #follow(copy: Known): void {
    const { channel } = copy;
    const state = channel.getConnectivityState(false);
    copy.state = state;
    const wasConnected = copy.connected;
    copy.connected = state === connectivityState.READY;
    if (copy.connected && !wasConnected) {
      copy.avoidedUntilMs = 0;
      // It has just spoken to us: what happened before is over.
      for (const breaker of copy.breakers.values()) if (breaker.open) breaker.close();
    }
    this.#tellWaiters();
    if (state === connectivityState.SHUTDOWN) return;
    channel.watchConnectivityState(state, Number.POSITIVE_INFINITY, () => this.#follow(copy));
    // Not now: the channel may be in the middle of telling us.
    if (state === connectivityState.IDLE) process.nextTick(() => this.#wake(copy));
  }

  /** Has a channel that rests connect. */
  #wake({ channel }: Known): void {
    if (!this.#closed) channel.getConnectivityState(true);
  }

  #tellWaiters(): void {
    if (this.#waiters.size === 0) return;
    if (this.connected) {
      for (const waiter of this.#waiters) {
        this.#forget(waiter);
        waiter.resolve();
      }
    } else if (this.#known.every(({ state }) => hasFailed(state))) {
      for (const waiter of this.#waiters) this.#giveUp(waiter, '');
    }
  }

  #giveUp(waiter: Waiter, when: string): void {
    this.#forget(waiter);
    const names = this.#known.map(({ target }) => target.name).join(', ');
    waiter.reject(new NeverSent('DEPENDENCY_DOWN', `No connection to ${names} ${when}`.trimEnd()));
  }

  #forget(waiter: Waiter): void {
    clearTimeout(waiter.timer);
    this.#waiters.delete(waiter);
  }
}

/** The less, the better. Without a connection it is the last resort. */
function doubtOf(
  { connected, owing, silentSinceMs, avoidedUntilMs }: Known,
  nowMs: number,
): number {
  const silent = owing > 0 && nowMs - silentSinceMs > silentMs;
  return (connected ? 0 : 4) + (avoidedUntilMs > nowMs ? 2 : 0) + (silent ? 1 : 0);
}

function stateOf(copy: Known, nowMs: number): CopyState {
  if (!copy.connected) return 'away';
  return doubtOf(copy, nowMs) > 0 ? 'silent' : 'answering';
}

function hasFailed(state: connectivityState): boolean {
  return state === connectivityState.TRANSIENT_FAILURE || state === connectivityState.SHUTDOWN;
}
