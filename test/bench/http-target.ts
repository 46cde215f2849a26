import { type HttpAnswer, HttpConnection } from './http-connection.ts';
import type { Arrival, Target } from './open-loop.ts';
import type { Recorder } from './recorder.ts';

/** Later than any deadline of the edge; then the outcome is unknown. */
const answerTimeoutMs = 6_000;
/** Requests waiting for a connection at most; one more is counted as not sent. */
const queueDepthMax = 8_000;
const timeoutCheckMs = 100;

/** What is sent, and how its answers are understood. */
export interface HttpRequests {
  /** The whole request with this number, head and body, in Latin-1. */
  textOf(number: number): string;
  /** The order that an answer of success names, or the reason of any other. */
  read(answer: HttpAnswer): bigint | string;
}

export interface HttpTargetOptions {
  readonly url: string;
  readonly requests: HttpRequests;
  readonly recorder: Recorder;
  readonly connectionsMax: number;
}

/** Sends requests to the edge over keep-alive connections. */
export function createHttpTarget(options: HttpTargetOptions): Target {
  const { requests, recorder, connectionsMax } = options;
  const { hostname, port } = new URL(options.url);
  const connections = new Set<HttpConnection>();
  const idle: HttpConnection[] = [];
  let queue: Arrival[] = [];
  let taken = 0;
  let lastCheckMs = 0;
  let closing = false;

  function open(): void {
    connections.add(
      new HttpConnection({ host: hostname, port: Number(port || 80) }, onIdle, (connection) =>
        connections.delete(connection),
      ),
    );
  }

  function onIdle(connection: HttpConnection): void {
    const next = queue[taken];
    if (next === undefined) {
      idle.push(connection);
      return;
    }
    taken += 1;
    if (taken === queue.length) {
      queue = [];
      taken = 0;
    }
    post(connection, next);
  }

  function post(connection: HttpConnection, { number, dueMs }: Arrival): void {
    connection.send(requests.textOf(number), (answer) => record(number, dueMs, answer));
  }

  function record(number: number, dueMs: number, answer: HttpAnswer | Error): void {
    const latencyMs = performance.now() - dueMs;
    const result = answer instanceof Error ? 'CONNECTION_LOST' : requests.read(answer);
    if (typeof result === 'bigint') recorder.ok(number, result, latencyMs);
    else recorder.failed(number, result, latencyMs);
  }

  function idleConnection(): HttpConnection | undefined {
    for (let connection = idle.pop(); connection; connection = idle.pop()) {
      if (!connection.closed) return connection;
    }
    return undefined;
  }

  return {
    offer(arrival) {
      const connection = idleConnection();
      if (connection) {
        post(connection, arrival);
        return true;
      }
      if (queue.length - taken >= queueDepthMax) return false;
      queue.push(arrival);
      return true;
    },
    flush(nowMs) {
      const waiting = queue.length - taken;
      const room = closing ? 0 : connectionsMax - connections.size;
      // A few at a time: a thousand connections opened in one tick would measure the opening.
      for (let opened = 0; opened < Math.min(waiting, room, 16); opened += 1) open();
      if (nowMs - lastCheckMs < timeoutCheckMs) return;
      lastCheckMs = nowMs;
      for (const connection of connections) {
        if (nowMs - (connection.busySinceMs ?? nowMs) > answerTimeoutMs) connection.destroy();
      }
    },
    async close() {
      closing = true;
      for (const connection of connections) connection.destroy();
    },
  };
}

/** The text from behind the mark up to the next quote. */
export function textBehind(body: string, mark: string): string {
  const start = body.indexOf(mark);
  if (start < 0) return 'UNREADABLE';
  const from = start + mark.length;
  return body.slice(from, body.indexOf('"', from));
}
