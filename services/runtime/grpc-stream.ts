import type { Channel } from '@grpc/grpc-js';
import {
  type CallOptions,
  type CompatServiceDefinition,
  createClientFactory,
  Metadata,
} from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import type { Gauge } from 'prom-client';
import { Deadline } from './deadline.ts';
import { addBreakers, atSomeCopy } from './grpc-attempts.ts';
import { callFateHeader, newCallFate } from './grpc-call-fates.ts';
import { openChannel } from './grpc-channel.ts';
import { type Copy, ServiceCopies } from './grpc-copies.ts';
import type { Log } from './log.ts';
import { fromClientError } from './refusal-status.ts';
import { Refusal } from './refusals.ts';

/**
 * Streams that share one channel. A server takes 2,000 a connection; what is above that would wait
 * without being told. Streams have channels of their own, so that they never stand before unary calls.
 */
const streamsPerChannel = 1_000;

/** A further channel that nobody needs any more is let go after so long. */
const spareIdleMs = 30 * 60_000;

/** How one method that answers with a stream is called. */
export interface StreamPolicy {
  /** Milliseconds until the first message; later ones may take as long as they take. */
  readonly firstMessageMs: number;
  /** The breaker of the method; only opening a stream counts, not its loss later. */
  readonly breaker: string;
}

export interface GrpcStreamOptions {
  /** `host:port` of every copy; a stream goes to one that is well and has the fewest. */
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

/** A stream whose first message is there. */
interface Opened {
  readonly messages: AsyncIterator<unknown>;
  readonly first: IteratorResult<unknown>;
  readonly close: () => void;
}

/** A client of one method that answers with a stream. It reads only, so that nothing has an outcome. */
export function createGrpcStreams<Request, Message>(
  definition: CompatServiceDefinition,
  method: string,
  { addresses, streamsMax, policy, log, breakerState }: GrpcStreamOptions,
): GrpcStreams<Request, Message> {
  const copies = new ServiceCopies(addresses);
  addBreakers(copies, policy.breaker, { log, state: breakerState });
  const lanes = new Lanes(definition, method);
  const open = new Set<AbortController>();

  /** Asks a copy for a stream and waits for its first message. */
  async function openAt(
    copy: Copy,
    request: Request,
    abort: AbortController,
    deadline: Deadline,
  ): Promise<Opened> {
    const lane = lanes.withRoom(copy);
    const fate = newCallFate();
    const metadata = Metadata({ [callFateHeader]: fate.id });
    const messages = lane.raw(request, { metadata, signal: abort.signal })[Symbol.asyncIterator]();
    lane.streams += 1;
    copy.load += 1;
    const close = (): void => {
      lane.streams -= 1;
      copy.load -= 1;
      // Cancels the call if it is still open; what it says to that is of no interest.
      messages.return?.().catch(() => {});
    };
    try {
      return { messages, first: await firstMessage(messages, deadline, abort), close };
    } catch (error) {
      close();
      throw fate.refusal(error) ?? fromClientError(error, false);
    } finally {
      fate.forget();
    }
  }

  return {
    async *open(request, signal) {
      if (signal.aborted) return;
      if (open.size >= streamsMax) throw new Refusal('OVERLOADED');
      const abort = new AbortController();
      const cancel = (): void => abort.abort();
      signal.addEventListener('abort', cancel, { once: true });
      open.add(abort);
      let opened: Opened | undefined;
      try {
        const deadline = Deadline.after(policy.firstMessageMs);
        opened = await atSomeCopy(copies, policy.breaker, deadline, {
          retry: true,
          async attempt(copy) {
            // A caller that has gone away says nothing about the peer.
            const response = await openAt(copy, request, abort, deadline).catch((error) => {
              if (signal.aborted) return undefined;
              throw error;
            });
            return { response };
          },
        });
        let next = opened?.first;
        for (; opened && next && !next.done; next = await opened.messages.next()) {
          yield next.value as Message;
        }
      } catch (error) {
        if (!signal.aborted) throw fromClientError(error, false);
      } finally {
        open.delete(abort);
        signal.removeEventListener('abort', cancel);
        opened?.close();
      }
    },
    close() {
      // A channel that is closed lets its calls go on.
      for (const abort of open) abort.abort();
      lanes.close();
      copies.close();
    },
  };
}

/** The channels of each copy: the first is the one that its state is known by, more open as they are needed. */
class Lanes {
  readonly #definition: CompatServiceDefinition;
  readonly #method: string;
  readonly #factory = createClientFactory().use(errorDetailsClientMiddleware);
  readonly #lanes = new Map<Copy, Lane[]>();

  constructor(definition: CompatServiceDefinition, method: string) {
    this.#definition = definition;
    this.#method = method;
  }

  /** The first channel with room, so that those behind it fall idle again. */
  withRoom(copy: Copy): Lane {
    const lanes = this.#lanes.get(copy) ?? [];
    this.#lanes.set(copy, lanes);
    const free = lanes.find((lane) => lane.streams < streamsPerChannel);
    if (free) return free;
    const channel =
      lanes.length === 0 ? copy.channel : openChannel(copy.target, { idleMs: spareIdleMs });
    const client = this.#factory.create(this.#definition, channel);
    const raw = (client as unknown as Record<string, RawMethod>)[this.#method] as RawMethod;
    const lane = { channel, raw, streams: 0 };
    lanes.push(lane);
    return lane;
  }

  close(): void {
    for (const [copy, lanes] of this.#lanes) {
      for (const { channel } of lanes) if (channel !== copy.channel) channel.close();
    }
  }
}

async function firstMessage(
  messages: AsyncIterator<unknown>,
  deadline: Deadline,
  abort: AbortController,
): Promise<IteratorResult<unknown>> {
  const timer = setTimeout(() => abort.abort(), Math.max(0, deadline.leftMs()));
  try {
    return await messages.next();
  } finally {
    clearTimeout(timer);
  }
}
