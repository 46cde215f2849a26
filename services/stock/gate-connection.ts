import { Redis } from 'ioredis';
import type { JudgedTime } from '../runtime/judged-time.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import { isNoMaster } from './gate-failure.ts';

/** The server is asked for its time and role this often: its clock may step, and it may be demoted. */
const lookEveryMs = 1_000;
/** Without the server's clock nothing is let through its gates, so a look that failed is repeated soon. */
const lookAgainMs = 100;
const reconnectMaxMs = 500;
/** A command that the server got so long before it was sent, by its own clock, shows that the clock was set back. */
const clockBackMs = 1_000;
/** How long a connection to a server of no use is kept before its address is looked up again. */
const otherServerAfterMs = 300;

/** The connection to the gate's Redis, and that server's clock. */
export interface GateConnection {
  readonly redis: Redis;
  /** Whether the server takes writes, keeps all that it is given, and its clock is known. */
  readonly connected: boolean;
  /** Why the server is not used although it answers. */
  readonly fault: ServerFault | undefined;
  /** Redis time in ms, at most one round trip slow; never the host's clock. @throws before it is known */
  redisNowMs(): number;
  /** Redis time before which a command that is sent now cannot be carried out. @throws as `redisNowMs` */
  notBeforeMs(): number;
  /**
   * What to add to Redis time to get the time that sales go by, in ms; 0 while Redis's clock is right.
   *
   * @throws Refusal DEPENDENCY_DOWN while nobody knows what time it is
   */
  correctionMs(): number;
  /** The time that sales go by, in ms. @throws as `correctionMs` */
  saleNowMs(): number;
  /** Asks for the server's time and role now: something that it answered shows that they have changed. */
  lookAgain(): void;
  /** Lets the commands of this turn of the event loop go out in one write; called before each of them. */
  gatherWrites(): void;
  close(): void;
}

/** Why a server must not be used although it answers. */
export interface ServerFault {
  readonly kind: 'replica' | 'evicts';
  /** What to do about it, for a person. */
  readonly sentence: string;
}

export interface GateConnectionOptions {
  readonly url: string;
  /** After which an answer is no longer waited for. */
  readonly commandTimeoutMs: number;
  /** Told the server's clock as `redis`; says what time it is. */
  readonly time: JudgedTime;
  readonly log: Log;
  /** How often the server is asked for its time and role. */
  readonly lookMs?: number;
}

/**
 * Connects to Redis and keeps reconnecting. Nothing is queued while it is away and nothing is sent
 * twice: a command either went out once or fails at once. A server that was demoted is left, since it
 * keeps its open connections and refuses every write; its address may lead to its successor.
 */
export function connectGate(options: GateConnectionOptions): GateConnection {
  const { url, commandTimeoutMs, time, log, lookMs = lookEveryMs } = options;
  const redis = new Redis(url, {
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    commandTimeout: commandTimeoutMs,
    connectTimeout: 2_000,
    // A connection that swallows commands is replaced; command timeouts alone would keep it for ever.
    socketTimeout: 5_000,
    keepAlive: 10_000,
    retryStrategy: (attempt) => Math.min(50 * attempt, reconnectMaxMs),
    reconnectOnError: isNoMaster,
  });
  /** Redis time minus the monotonic clock, both in ms. */
  let offsetMs: number | undefined;
  let fault: ServerFault | undefined;
  let failure: string | undefined;
  let retry: NodeJS.Timeout | undefined;

  async function look(): Promise<void> {
    const askedMs = performance.now();
    const [[seconds, micros], replication, memory] = await Promise.all([
      redis.time(),
      redis.info('replication'),
      redis.info('memory'),
    ]);
    const redisMs = Number(seconds) * 1_000 + Number(micros) / 1_000;
    time.observe('redis', redisMs);
    offsetMs = offsetAfter(offsetMs, redisMs - performance.now(), redisMs - askedMs);
    note(faultOf(replication, memory));
  }

  function note(found: ServerFault | undefined): void {
    if (found && found.kind !== fault?.kind) log.error(found.sentence);
    fault = found;
    if (found?.kind !== 'replica') return;
    clearTimeout(retry);
    retry = setTimeout(() => redis.disconnect(true), otherServerAfterMs);
  }

  const lookNow = (): void => {
    look().catch(() => {
      if (offsetMs !== undefined || redis.status !== 'ready') return;
      clearTimeout(retry);
      retry = setTimeout(lookNow, lookAgainMs);
    });
  };
  const timer = setInterval(lookNow, lookMs);
  timer.unref();
  redis.on('ready', () => {
    if (failure !== undefined) log.info('Redis is back');
    failure = undefined;
    lookNow();
  });
  redis.on('error', (error: Error) => {
    if (error.message !== failure) log.warn({ err: error }, 'no connection to Redis');
    failure = error.message;
  });
  // The server that comes back may be another one with another clock.
  redis.on('close', () => {
    offsetMs = undefined;
    time.forget('redis');
  });
  const redisNowMs = (): number => {
    if (offsetMs === undefined) throw new Refusal('DEPENDENCY_DOWN', 'Redis is away');
    if (fault !== undefined) throw new Refusal('DEPENDENCY_DOWN', fault.sentence);
    return offsetMs + performance.now();
  };
  const correctionMs = (): number => {
    const nowMs = redisNowMs();
    const right = time.corrected(nowMs);
    if (right === undefined) throw new Refusal('DEPENDENCY_DOWN', 'The clocks disagree');
    return Math.round(right - nowMs);
  };
  return {
    redis,
    get connected() {
      return redis.status === 'ready' && offsetMs !== undefined && fault === undefined;
    },
    get fault() {
      return fault;
    },
    redisNowMs,
    notBeforeMs: () => redisNowMs() - clockBackMs,
    correctionMs,
    saleNowMs: () => redisNowMs() + correctionMs(),
    lookAgain: lookNow,
    gatherWrites() {
      const { stream } = redis;
      if (!stream || stream.writableCorked > 0) return;
      // With a hundred SKUs on sale a batch of orders is a hundred commands, and system calls.
      stream.cork();
      setImmediate(() => stream.uncork());
    },
    close() {
      clearInterval(timer);
      clearTimeout(retry);
      redis.disconnect();
    },
  };
}

/** By what a server says of itself; undefined if it may be used. */
function faultOf(replication: string, memory: string): ServerFault | undefined {
  if (!/^role:master/m.test(replication)) {
    const sentence =
      'The Redis at this address is a replica, which takes no writes: name the master';
    return { kind: 'replica', sentence };
  }
  const policy = /^maxmemory_policy:([\w-]+)/m.exec(memory)?.[1];
  if (policy === undefined || policy === 'noeviction') return undefined;
  const rule = `maxmemory-policy is ${policy}: set it to noeviction`;
  return { kind: 'evicts', sentence: `Redis drops keys when its memory is full, ${rule}` };
}

/**
 * What to take for Redis time minus ours, by an answer that says it is from `least` to `most`. What was
 * taken before stays while it can be right, for its answer came faster; anything else would be as slow as
 * this answer was, and commands would find their deadlines passed.
 */
export function offsetAfter(before: number | undefined, least: number, most: number): number {
  return before !== undefined && before >= least && before <= most ? before : least;
}
