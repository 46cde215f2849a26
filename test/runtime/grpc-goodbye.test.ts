import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import {
  type ClientHttp2Session,
  connect,
  createServer,
  type Http2Server,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo, Socket } from 'node:net';
import { test } from 'node:test';
import { sayGoodbye } from '../../services/runtime/grpc-goodbye.ts';
import { eventually } from '../support/eventually.ts';

/** Far more than the machine takes for a client at once. */
const body = randomBytes(3 * 1_024 * 1_024);
const digestOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const memory = { maxSessionMemory: 10_000 };

interface Pair {
  readonly client: ClientHttp2Session;
  readonly session: ServerHttp2Session;
  readonly socket: Socket;
}

/** A server that answers everything with the body, and a client of it. */
async function withPair(run: (pair: Pair) => Promise<void>): Promise<void> {
  const server: Http2Server = createServer(memory);
  let socket: Socket | undefined;
  let session: ServerHttp2Session | undefined;
  server.on('connection', (each: Socket) => {
    socket = each;
  });
  server.on('session', (each) => {
    session = each;
  });
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => {});
    stream.respond({ ':status': 200 });
    stream.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const settings = { initialWindowSize: 8 * body.length };
  const client = connect(`http://127.0.0.1:${port}`, { ...memory, settings });
  client.on('error', () => {});
  await new Promise<void>((resolve) => client.once('remoteSettings', () => resolve()));
  client.setLocalWindowSize(16 * body.length);
  try {
    assert.ok(session && socket);
    await run({ client, session, socket });
  } finally {
    client.destroy();
    socket?.destroy();
    await new Promise((resolve) => server.close(resolve));
  }
}

/** The digests of so many answers that are read at the same time. */
function readAnswers(client: ClientHttp2Session, count: number): Promise<string[]> {
  const one = (): Promise<string> =>
    new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      const stream = client.request({ ':path': '/' });
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('end', () => resolve(digestOf(Buffer.concat(chunks))));
      stream.on('error', reject);
    });
  return Promise.all(Array.from({ length: count }, one));
}

test('answers under way arrive byte for byte around the goodbye', async () => {
  for (let round = 0; round < 5; round += 1) {
    await withPair(async ({ client, session, socket }) => {
      const told: number[] = [];
      client.on('goaway', (_code, lastStreamId) => told.push(lastStreamId));
      const reading = readAnswers(client, 6);
      // In the middle of them.
      await eventually(() => socket.bytesWritten > body.length, 'they are being sent', {
        everyMs: 1,
      });
      await sayGoodbye(session, socket);
      assert.deepEqual(new Set(await reading), new Set([digestOf(body)]));
      assert.ok(told.length > 0, 'the client was told to go');
    });
  }
});

test('a client that reads nothing neither delays the goodbye for long nor ends the process', async () => {
  await withPair(async ({ client, session, socket }) => {
    // Its library reads; the socket below is held up by a process that stands still.
    const answers = readAnswers(client, 6).catch(() => []);
    (client.socket as unknown as { _handle: { readStop(): void } })._handle.readStop();
    await eventually(() => socket.bytesWritten > 0, 'they are being sent');
    await sayGoodbye(session, socket);
    assert.equal(session.closed, true);
    client.destroy();
    await answers;
  });
});
