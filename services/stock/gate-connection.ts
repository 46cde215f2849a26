import { Redis } from 'ioredis';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';

/** Redis time is sampled again this often, because two clocks drift apart. */
const clockSampleMs = 10_000;
/** Without the server's clock nothing is let through its gates, so a sample that failed is repeated soon. */
const clockRetryMs = 100;
const reconnectMaxMs = 500;

/** The connection to the gate's Redis, and that server's clock. */
export interface GateConnection {
  readonly redis: Redis;
  readonly connected: boolean;
  /** Redis time in ms, at most one round trip slow; never the host's clock. @throws before it is known */
  redisNowMs(): number;
  /** Lets the commands of this turn of the event loop go out in one write; called before each of them. */
  gatherWrites(): void;
  close(): void;
}

/**
 * Connects to Redis and keeps reconnecting. Nothing is queued while it is away and nothing is sent
 * twice: a command either went out once or fails at once.
 *
 * @param commandTimeoutMs after which an answer is no longer waited for
 */
export function connectGate({
  url,
  commandTimeoutMs,
  log,
  sampleMs = clockSampleMs,
}: {
  url: string;
  commandTimeoutMs: number;
  log: Log;
  /** How often the server is asked for its time. */
  sampleMs?: number;
}): GateConnection {
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
  });
  /** Redis time minus the monotonic clock, both in ms. */
  let offsetMs: number | undefined;
  let failure: string | undefined;

  async function sampleClock(): Promise<void> {
    const askedMs = performance.now();
    const [seconds, micros] = await redis.time();
    const redisMs = Number(seconds) * 1_000 + Number(micros) / 1_000;
    offsetMs = offsetAfter(offsetMs, redisMs - performance.now(), redisMs - askedMs);
  }
  let retry: NodeJS.Timeout | undefined;
  const sample = (): void => {
    sampleClock().catch(() => {
      if (offsetMs !== undefined || redis.status !== 'ready') return;
      clearTimeout(retry);
      retry = setTimeout(sample, clockRetryMs);
    });
  };
  const timer = setInterval(sample, sampleMs);
  timer.unref();
  redis.on('ready', () => {
    if (failure !== undefined) log.info('Redis is back');
    failure = undefined;
    sample();
  });
  redis.on('error', (error: Error) => {
    if (error.message !== failure) log.warn({ err: error }, 'no connection to Redis');
    failure = error.message;
  });
  // The server that comes back may be another one with another clock.
  redis.on('close', () => {
    offsetMs = undefined;
  });
  return {
    redis,
    get connected() {
      return redis.status === 'ready' && offsetMs !== undefined;
    },
    redisNowMs() {
      if (offsetMs === undefined) throw new Refusal('DEPENDENCY_DOWN', 'Redis is away');
      return offsetMs + performance.now();
    },
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

/**
 * What to take for Redis time minus ours, by an answer that says it is from `least` to `most`. What was
 * taken before stays while it can be right, for its answer came faster; anything else would be as slow as
 * this answer was, and commands would find their deadlines passed.
 */
export function offsetAfter(before: number | undefined, least: number, most: number): number {
  return before !== undefined && before >= least && before <= most ? before : least;
}

/** Error replies with which Redis refuses a command before it does anything. */
const refusedBefore =
  /^(LOADING|READONLY|OOM|MISCONF|BUSY|NOAUTH|NOPERM|CLUSTERDOWN|MASTERDOWN|MOVED|ASK|TRYAGAIN|NOREPLICAS|WRONGPASS)\b/;

/** What a failed command means: DEPENDENCY_DOWN if it surely did nothing, else OUTCOME_UNKNOWN. */
export function gateFailure(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  const neverSent = message.startsWith("Stream isn't writeable");
  if (neverSent || (name === 'ReplyError' && refusedBefore.test(message))) {
    return new Refusal('DEPENDENCY_DOWN', 'Redis is away', { cause: error });
  }
  return new Refusal('OUTCOME_UNKNOWN', 'Redis did not answer', { cause: error });
}
