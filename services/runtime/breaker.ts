import CircuitBreaker from 'opossum';
import type { Gauge } from 'prom-client';
import type { Log } from './log.ts';
import { isAnswer, Refusal } from './refusals.ts';

/** The source's rule: window 10 s, open 30 s, at least 10 calls, 50 % errors or 10 in a row. */
const windowMs = 10_000;
const openMs = 30_000;
const callsMin = 10;
/** opossum compares with `>`, the rule says `>=`. */
const errorPercentage = 49.99;
const failuresInARowMax = 10;
/** While a peer is away for lack of a connection, how often its return is looked for. */
const probeEveryMs = 500;

export interface Breaker {
  /** Runs `call`, unless the circuit is open. @throws Refusal DEPENDENCY_DOWN while it is open */
  fire<Result>(call: () => Promise<Result>): Promise<Result>;
  readonly open: boolean;
  /** Opens the circuit because the peer is known to be away; its probe closes it. */
  trip(): void;
  /** Closes the circuit because the peer is known to be back. */
  close(): void;
  stop(): void;
}

export interface BreakerOptions {
  /** Names the peer and the class of methods, such as `stock.reserve`. */
  readonly name: string;
  readonly log: Log;
  readonly state?: Gauge<'name'>;
  /**
   * Whether the peer can be reached again. Asked only while the circuit is open after a lost
   * connection, so that a restarted peer is used at once; a slow peer waits out the 30 s.
   */
  readonly probe?: () => boolean | Promise<boolean>;
  /** Whether a failure was a lost connection. */
  readonly isConnectionLoss?: (error: unknown) => boolean;
}

/** A circuit breaker for one (peer, class of methods). Answers do not count, whatever they say; see `isAnswer`. */
export function createBreaker(options: BreakerOptions): Breaker {
  const { name, log, state, probe, isConnectionLoss = () => false } = options;
  const circuit = new CircuitBreaker((call: () => Promise<unknown>) => call(), {
    name,
    timeout: false,
    rollingCountTimeout: windowMs,
    resetTimeout: openMs,
    volumeThreshold: callsMin,
    errorThresholdPercentage: errorPercentage,
    rollingPercentilesEnabled: false,
    enableSnapshots: false,
    errorFilter: (error: unknown) => isAnswer(error),
  });
  let failuresInARow = 0;
  let lostConnection = false;
  let probing: NodeJS.Timeout | undefined;
  let asking = false;
  state?.set({ name }, 0);
  circuit.on('success', () => {
    failuresInARow = 0;
  });
  circuit.on('failure', (error: unknown) => {
    failuresInARow += 1;
    lostConnection = isConnectionLoss(error);
    if (failuresInARow >= failuresInARowMax && !circuit.opened) circuit.open();
  });
  circuit.on('open', () => {
    state?.set({ name }, 2);
    log.warn({ breaker: name }, 'circuit opened');
    // Half-open, it may have met a peer that answers slowly; such a one waits out the 30 s.
    if (!lostConnection) stopProbing();
    else if (probe) probing ??= setInterval(() => void lookForPeer(), probeEveryMs);
  });
  circuit.on('halfOpen', () => state?.set({ name }, 1));
  circuit.on('close', () => {
    state?.set({ name }, 0);
    failuresInARow = 0;
    stopProbing();
    log.info({ breaker: name }, 'circuit closed');
  });

  function stopProbing(): void {
    clearInterval(probing);
    probing = undefined;
  }

  /** One at a time, because a peer that swallows connections would be asked more and more often. */
  async function lookForPeer(): Promise<void> {
    if (asking) return;
    asking = true;
    const back = await Promise.resolve(probe?.()).catch(() => false);
    asking = false;
    if (back && circuit.opened && probing !== undefined) circuit.close();
  }

  return {
    async fire<Result>(call: () => Promise<Result>): Promise<Result> {
      try {
        return (await circuit.fire(call)) as Result;
      } catch (error) {
        if (!CircuitBreaker.isOurError(error as Error)) throw error;
        throw new Refusal('DEPENDENCY_DOWN', `The circuit of ${name} is open`, { cause: error });
      }
    },
    get open() {
      return circuit.opened;
    },
    trip() {
      lostConnection = true;
      if (!circuit.opened) circuit.open();
    },
    close: () => circuit.close(),
    stop() {
      stopProbing();
      circuit.shutdown();
    },
  };
}
