import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type HttpCloseReason,
  HttpGuard,
  type HttpGuardOptions,
  keepOpen,
} from '../../services/runtime/http-guard.ts';
import { eventually } from '../support/eventually.ts';

interface Guarded {
  readonly server: Server;
  readonly guard: HttpGuard;
  readonly port: number;
  readonly closed: HttpCloseReason[];
  /** Paths that came to the handler. */
  readonly handled: string[];
}

type Handle = (request: IncomingMessage, response: ServerResponse) => void;

async function withServer(
  handle: Handle,
  options: Partial<HttpGuardOptions>,
  run: (guarded: Guarded) => Promise<void>,
): Promise<void> {
  const closed: HttpCloseReason[] = [];
  const handled: string[] = [];
  const server = createServer((request, response) => {
    handled.push(request.url ?? '');
    handle(request, response);
  });
  const onClosed = (reason: HttpCloseReason): void => void closed.push(reason);
  const guard = new HttpGuard(server, {
    connectionsMax: 100,
    perPeerMax: 100,
    onClosed,
    ...options,
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  try {
    await run({ server, guard, port, closed, handled });
  } finally {
    const stopped = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await stopped;
  }
}

const answerAtOnce: Handle = (_request, response) => void response.end('ok');
const get = 'GET /a HTTP/1.1\r\nhost: a\r\n\r\n';

/** A client that keeps its side open, and what it was answered. */
function client(
  port: number,
  begin: string,
): { socket: Socket; text: () => string; gone: () => boolean } {
  let text = '';
  let gone = false;
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.on('connect', () => socket.write(begin));
  socket.on('data', (chunk) => {
    text += chunk;
  });
  socket.on('error', () => {});
  socket.on('end', () => {
    gone = true;
  });
  socket.on('close', () => {
    gone = true;
  });
  return { socket, text: () => text, gone: () => gone };
}

// Each waits for seconds, so they wait together.
describe('a guard of connections', { concurrency: true }, () => {
  test('a request that dribbles is given up, also the second one of a connection, and its server has no listener for it', async () => {
    await withServer(answerAtOnce, {}, async ({ port, guard, closed }) => {
      const first = client(port, 'GET /a HTTP/1.1\r\nx: ');
      const second = client(port, `${get}GET /b HTTP/1.1\r\nx: `);
      await eventually(() => guard.connections === 2, 'both are connected');
      const timer = setInterval(() => {
        for (const { socket } of [first, second]) if (socket.writable) socket.write('a');
      }, 200);
      try {
        await eventually(() => guard.connections === 0, 'both places are free');
      } finally {
        clearInterval(timer);
        for (const { socket } of [first, second]) socket.destroy();
      }
      assert.match(second.text(), /^HTTP\/1\.1 200 /);
      assert.deepEqual(closed, ['slow_request', 'slow_request']);
    });
  });

  test('the rest of a request that was answered early is not waited for', async () => {
    await withServer(answerAtOnce, {}, async ({ port, guard, closed }) => {
      const half = client(port, 'POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf');
      await eventually(() => half.text().includes(' 200 '), 'it is answered');
      await eventually(() => guard.connections === 0, 'its place is free');
      assert.deepEqual(closed, ['slow_request']);
      half.socket.destroy();
    });
  });

  test('a rest that comes in time leaves the connection as it is', async () => {
    await withServer(answerAtOnce, {}, async ({ port, guard }) => {
      const slow = client(port, 'POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nha');
      await eventually(() => slow.text().includes(' 200 '), 'it is answered');
      slow.socket.write('lf!');
      // Longer than a request may take.
      await sleep(4_600);
      slow.socket.write(get);
      await eventually(() => slow.text().split(' 200 ').length === 3, 'the next one is answered');
      assert.equal(guard.connections, 1);
      slow.socket.destroy();
    });
  });

  test('more unanswered requests than are allowed end the connection, and none of the rest is handled', async () => {
    await withServer(
      () => {},
      { unansweredMax: 3 },
      async ({ port, handled, closed }) => {
        const greedy = client(port, get.repeat(1_000));
        await eventually(() => greedy.gone(), 'the connection is closed');
        assert.equal(handled.length, 3);
        assert.deepEqual(closed, ['pipelining']);
        greedy.socket.destroy();
      },
    );
  });

  test('a handler that never answers is given up, and a stream that looks after itself is not', async () => {
    const handle: Handle = ({ url }, response) => {
      if (url !== '/stream') return;
      keepOpen(response);
      response.writeHead(200).flushHeaders();
    };
    await withServer(handle, {}, async ({ port, guard, closed }) => {
      const stream = client(port, get.replace('/a', '/stream'));
      const hung = client(port, get);
      await eventually(() => hung.gone(), 'the connection without an answer is closed');
      assert.deepEqual(closed, ['unanswered']);
      assert.equal(guard.connections, 1);
      stream.socket.destroy();
      hung.socket.destroy();
    });
  });

  test('what waits for clients in memory is bounded: who takes the least loses its connection', async () => {
    const large = Buffer.alloc(16 * 1_024 * 1_024);
    const handle: Handle = (_request, response) => void response.end(large);
    await withServer(handle, { unsentBytesMax: 20_000_000 }, async ({ port, closed }) => {
      const deaf = [1, 2, 3].map(() => client(port, get));
      for (const { socket } of deaf) socket.pause();
      await eventually(() => closed.includes('memory'), 'memory is freed');
      for (const { socket } of deaf) socket.destroy();
    });
  });

  test('a stop waits for nobody who dribbles', async () => {
    await withServer(answerAtOnce, {}, async ({ server, port, guard }) => {
      const slow = client(port, 'GET /a HTTP/1.1\r\nx: ');
      await eventually(() => guard.connections === 1, 'it is connected');
      const timer = setInterval(() => slow.socket.writable && slow.socket.write('a'), 200);
      await new Promise((resolve) => server.close(resolve));
      clearInterval(timer);
      slow.socket.destroy();
    });
  });
});
