import { createTokens } from '../../services/runtime/tokens.ts';
import { type HttpAnswer, HttpConnection } from './http-connection.ts';
import type { Arrival, Target } from './open-loop.ts';
import type { Recorder } from './recorder.ts';
import type { Sale } from './sale.ts';

/** Later than any deadline of the edge; then the outcome is unknown. */
const answerTimeoutMs = 6_000;
/** Orders waiting for a connection at most; one more is counted as not sent. */
const queueDepthMax = 8_000;
const timeoutCheckMs = 100;

export interface HttpTargetOptions {
  readonly url: string;
  readonly tokenSecret: string;
  readonly sale: Sale;
  readonly recorder: Recorder;
  readonly connectionsMax: number;
}

/** Posts orders to the edge over keep-alive connections, each buyer with a token of its own. */
export function createHttpTarget(options: HttpTargetOptions): Target {
  const { sale, recorder, connectionsMax } = options;
  const { hostname, port, host } = new URL(options.url);
  const heads = requestHeads(host, options);
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
    const { lines, requestId } = sale.requestOf(number);
    const line = lines[0];
    const body = `{"lines":[{"skuId":"${line?.skuId}","quantity":${line?.quantity}}]}`;
    const head = heads[sale.userIndexOf(number)];
    const request = `${head}${requestId}\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    connection.send(request, (answer) => record(number, dueMs, answer));
  }

  function record(number: number, dueMs: number, answer: HttpAnswer | Error): void {
    const latencyMs = performance.now() - dueMs;
    if (answer instanceof Error) recorder.failed(number, 'CONNECTION_LOST', latencyMs);
    else if (answer.status === 201) {
      recorder.ok(number, BigInt(textBehind(answer.body, '"orderId":"')), latencyMs);
    } else recorder.failed(number, textBehind(answer.body, '"reason":"'), latencyMs);
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

/** Everything of a request up to the value of its last variable header, made once for each buyer. */
function requestHeads(host: string, { tokenSecret, sale }: HttpTargetOptions): string[] {
  const tokens = createTokens({ secret: tokenSecret });
  const heads: string[] = [];
  for (let userId = sale.firstUserId; userId <= sale.lastUserId; userId += 1n) {
    const { token } = tokens.sign({ userId, ttlSeconds: 24 * 3_600 });
    heads.push(
      `POST /v1/orders HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\n` +
        `authorization: Bearer ${token}\r\nidempotency-key: `,
    );
  }
  return heads;
}

/** The text from behind the mark up to the next quote. */
function textBehind(body: string, mark: string): string {
  const start = body.indexOf(mark);
  if (start < 0) return 'UNREADABLE';
  const from = start + mark.length;
  return body.slice(from, body.indexOf('"', from));
}
