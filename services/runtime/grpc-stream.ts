import type { Channel } from '@grpc/grpc-js';
import { type CallOptions, type CompatServiceDefinition, createClientFactory } from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import type { Gauge } from 'prom-client';
import { createBreaker } from './breaker.ts';
import { Deadline } from './deadline.ts';
import { isConnected, isConnectionLoss, openChannel, waitUntilConnected } from './grpc-channel.ts';
import type { Log } from './log.ts';
import { fromClientError } from './refusal-status.ts';
import { Refusal } from './refusals.ts';

/**
 * Streams that share one channel. A server takes 2,000 a connection; what is above that would wait
 * without being told. Streams have channels of their own, so that they never stand before unary calls.
 */
const streamsPerChannel = 1_000;

/** How one method that answers with a stream is called. */
export interface StreamPolicy {
  /** Milliseconds until the first message; later ones may take as long as they take. */
  readonly firstMessageMs: number;
  /** The breaker of the method; only opening a stream counts, not its loss later. */
  readonly breaker: string;
}

export interface GrpcStreamOptions {
  /** `host:port` of every copy; streams are spread over them. */
  readonly addresses: readonly string[];
  /** Streams open at once; one more is refused as OVERLOADED. */
  readonly streamsMax: number;
  readonly policy: StreamPolicy;
  readonly log: Log;
  readonly breakerState?: Gauge<'name'>;
}

export interface GrpcStreams<Request, Message> {
  /**
   * The messages of one call, which begins with the first `next()`. It ends as the server ends it, when
   * the loop over it is left, and quietly when the signal is aborted, which is the only way out while a
   * message is awaited.
   *
   * @throws Refusal what the server refused with; OVERLOADED if too many streams are open;
   *   DEPENDENCY_DOWN if there is no connection, no first message in time, or the stream is lost
   */
  open(request: Request, signal: AbortSignal): AsyncGenerator<Message, void>;
  /** Cancels what is open. */
  close(): void;
}

type RawMethod = (request: unknown, options: CallOptions) => AsyncIterable<unknown>;

interface Lane {
  readonly channel: Channel;
  readonly raw: RawMethod;
  streams: number;
}

/** A client of one method that answers with a stream. It reads only, so that nothing has an outcome. */
export function createGrpcStreams<Request, Message>(
  definition: CompatServiceDefinition,
  method: string,
  { addresses, streamsMax, policy, log, breakerState }: GrpcStreamOptions,
): GrpcStreams<Request, Message> {
  const lanes: Lane[] = [];
  const factory = createClientFactory().use(errorDetailsClientMiddleware);
  const breaker = createBreaker({
    name: policy.breaker,
    log,
    ...(breakerState ? { state: breakerState } : {}),
    probe: () => lanes.some(({ channel }) => isConnected(channel)),
    isConnectionLoss,
  });
  const open = new Set<AbortController>();

  /** The first channel with room, so that those behind it fall idle again. */
  function laneWithRoom(): Lane {
    const free = lanes.find((lane) => lane.streams < streamsPerChannel);
    if (free) return free;
    const channel = openChannel(addresses);
    const client = factory.create(definition, channel) as unknown as Record<string, RawMethod>;
    const lane = { channel, raw: client[method] as RawMethod, streams: 0 };
    lanes.push(lane);
    return lane;
  }

  return {
    async *open(request, signal) {
      if (signal.aborted) return;
      if (open.size >= streamsMax) throw new Refusal('OVERLOADED');
      const lane = laneWithRoom();
      const abort = new AbortController();
      const cancel = (): void => abort.abort();
      signal.addEventListener('abort', cancel, { once: true });
      const messages = lane.raw(request, { signal: abort.signal })[Symbol.asyncIterator]();
      open.add(abort);
      lane.streams += 1;
      try {
        const first = await breaker.fire(async () => {
          const deadline = Deadline.after(policy.firstMessageMs);
          if (!isConnected(lane.channel)) await waitUntilConnected(lane.channel, deadline);
          // A caller that has gone away says nothing about the peer.
          return await firstMessage(messages, deadline, cancel).catch((error: unknown) => {
            if (signal.aborted) return { done: true, value: undefined } as const;
            throw fromClientError(error, false);
          });
        });
        for (let next = first; !next.done; next = await messages.next())
          yield next.value as Message;
      } catch (error) {
        if (!signal.aborted) throw fromClientError(error, false);
      } finally {
        open.delete(abort);
        lane.streams -= 1;
        signal.removeEventListener('abort', cancel);
        // Cancels the call if it is still open; what it says to that is of no interest.
        messages.return?.().catch(() => {});
      }
    },
    close() {
      breaker.stop();
      // A channel that is closed lets its calls go on.
      for (const abort of open) abort.abort();
      for (const { channel } of lanes) channel.close();
    },
  };
}

async function firstMessage(
  messages: AsyncIterator<unknown>,
  deadline: Deadline,
  cancel: () => void,
): Promise<IteratorResult<unknown>> {
  const timer = setTimeout(cancel, Math.max(0, deadline.leftMs()));
  try {
    return await messages.next();
  } finally {
    clearTimeout(timer);
  }
}
