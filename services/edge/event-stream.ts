import type { ServerResponse } from 'node:http';

export const eventStreamContentType = 'text/event-stream';

export interface EventStreamOptions {
  /** After how long without anything else a comment tells that the connection lives, in milliseconds. */
  readonly heartbeatMs: number;
  /** After how long the stream ends by itself, in milliseconds. */
  readonly lifetimeMs: number;
  /** How long a reader may take for the rest of a stream that has ended, in milliseconds; default 2,000. */
  readonly flushMs?: number;
}

const heartbeat = ':\n\n';
const defaultFlushMs = 2_000;

/**
 * Server-sent events over one response whose head has been written. A reader that is slower than the
 * events gets the newest one when it can take it, and those between never; one that takes nothing
 * for two heartbeats is cut off.
 */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #timer: NodeJS.Timeout;
  readonly #untilMs: number;
  readonly #flushMs: number;
  /** What waits for a slow reader. */
  #newest: string | undefined;
  #stalledHeartbeats = 0;
  #flushing: NodeJS.Timeout | undefined;

  constructor(response: ServerResponse, options: EventStreamOptions) {
    const { heartbeatMs, lifetimeMs, flushMs = defaultFlushMs } = options;
    this.#response = response;
    this.#untilMs = performance.now() + lifetimeMs;
    this.#flushMs = flushMs;
    this.#timer = setInterval(() => this.#beat(), heartbeatMs);
    response.on('drain', () => this.#drained());
    response.once('close', () => {
      clearInterval(this.#timer);
      clearTimeout(this.#flushing);
    });
    // A write to a connection that is gone; close follows.
    response.on('error', () => {});
  }

  /** Sends an event, or keeps it in the place of the one that waits for the reader. */
  send(event: string): void {
    if (this.#response.writableEnded || this.#response.destroyed) return;
    if (this.#response.writableNeedDrain) this.#newest = event;
    else this.#response.write(event);
  }

  /** Sends what waits and the last event, if there is one, and closes the connection behind them. */
  end(lastEvent = ''): void {
    if (this.#response.writableEnded || this.#response.destroyed) return;
    clearInterval(this.#timer);
    const rest = (this.#newest ?? '') + lastEvent;
    this.#newest = undefined;
    this.#response.end(rest);
    this.#flushing = setTimeout(() => this.#response.destroy(), this.#flushMs);
  }

  #drained(): void {
    this.#stalledHeartbeats = 0;
    const event = this.#newest;
    this.#newest = undefined;
    if (event !== undefined && !this.#response.writableEnded) this.#response.write(event);
  }

  #beat(): void {
    if (this.#response.writableNeedDrain) {
      this.#stalledHeartbeats += 1;
      if (this.#stalledHeartbeats >= 2) this.#response.destroy();
      return;
    }
    if (performance.now() >= this.#untilMs) this.end();
    else this.#response.write(heartbeat);
  }
}

/** One event as text; the data must be a single line. */
export function eventText(name: string, data: string, id?: number): string {
  return `event: ${name}\n${id === undefined ? '' : `id: ${id}\n`}data: ${data}\n\n`;
}
