import assert from 'node:assert/strict';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { test } from 'node:test';
import {
  EventStream,
  type EventStreamOptions,
  eventText,
} from '../../services/edge/event-stream.ts';
import { until } from './support.ts';

/** Far more than the buffers of a connection on this machine take. */
const padding = 'x'.repeat(64 * 1_024);

interface Slow {
  readonly stream: EventStream;
  readonly response: ServerResponse;
  /** Its client, which reads nothing until it is told to. */
  readonly client: Socket;
  close(): Promise<void>;
}

async function startSlow(options: EventStreamOptions): Promise<Slow> {
  const opened = Promise.withResolvers<ServerResponse>();
  const server = createServer((_request, response) => {
    response.writeHead(200, { connection: 'close' }).flushHeaders();
    opened.resolve(response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  client.pause();
  client.on('error', () => {});
  client.write('GET / HTTP/1.1\r\nhost: a\r\n\r\n');
  const response = await opened.promise;
  return {
    stream: new EventStream(response, options),
    response,
    client,
    async close() {
      client.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Sends numbered events until the reader is behind; answers the number of the last. */
async function fill({ stream, response }: Slow): Promise<number> {
  let count = 0;
  // What the kernel takes only shows after a turn.
  for (let stalled = 0; stalled < 20; ) {
    // A stream that was cut off meanwhile takes nothing either.
    if (response.writableNeedDrain || response.destroyed) {
      stalled += 1;
      await new Promise((resolve) => setTimeout(resolve, 5));
    } else {
      stalled = 0;
      count += 1;
      stream.send(eventText('order', padding, count));
    }
    assert.ok(count < 10_000, 'the reader is never behind');
  }
  return count;
}

const patient = { heartbeatMs: 60_000, lifetimeMs: 60_000, flushMs: 60_000 };

test('a slow reader gets what was under way, the newest event, and nothing between', async () => {
  const slow = await startSlow(patient);
  try {
    const sent = await fill(slow);
    const buffered = slow.response.writableLength;
    for (let id = 1; id <= 1_000; id += 1) slow.stream.send(eventText('order', padding, sent + id));
    assert.equal(slow.response.writableLength, buffered, 'nothing is heaped up');
    let text = '';
    slow.client.on('data', (chunk) => {
      text += chunk;
    });
    slow.client.resume();
    await until(async () => text.includes(`id: ${sent + 1_000}\n`));
    slow.stream.end(eventText('end', '{}'));
    await until(async () => text.includes('event: end\n'));
    const ids = [...text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));
    const expected = Array.from({ length: sent }, (_, index) => index + 1);
    assert.deepEqual(ids, [...expected, sent + 1_000]);
  } finally {
    await slow.close();
  }
});

test('the end comes behind the event that waits', async () => {
  const slow = await startSlow(patient);
  try {
    const sent = await fill(slow);
    slow.stream.send(eventText('order', 'overtaken', sent + 1));
    slow.stream.send(eventText('order', 'final', sent + 2));
    slow.stream.end(eventText('end', '{}'));
    slow.stream.send(eventText('order', 'after the end', sent + 3));
    let text = '';
    slow.client.on('data', (chunk) => {
      text += chunk;
    });
    slow.client.resume();
    await until(async () => text.includes('event: end\n'));
    assert.match(text, /data: final\n\n(?:\r\n[0-9a-f]+\r\n)?event: end\ndata: \{\}\n\n/);
    assert.doesNotMatch(text, /overtaken|after the end/);
  } finally {
    await slow.close();
  }
});

test('a reader that takes nothing for two heartbeats is cut off', async () => {
  const slow = await startSlow({ heartbeatMs: 1_000, lifetimeMs: 60_000 });
  try {
    await fill(slow);
    await until(async () => slow.response.destroyed);
  } finally {
    await slow.close();
  }
});

test('a reader that takes nothing does not keep an ended stream open', async () => {
  const { heartbeatMs, lifetimeMs } = patient;
  const slow = await startSlow({ heartbeatMs, lifetimeMs });
  try {
    await fill(slow);
    slow.stream.end();
    await until(async () => slow.response.destroyed);
  } finally {
    await slow.close();
  }
});
