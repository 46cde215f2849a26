import assert from 'node:assert/strict';
import type { IncomingMessage } from 'node:http';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { UnfinishedBodies } from '../../services/edge/unfinished-bodies.ts';

/** A request whose body a test sends by hand. */
function request(contentLength?: number): PassThrough & { asRequest: IncomingMessage } {
  const headers = contentLength === undefined ? {} : { 'content-length': String(contentLength) };
  const stream = Object.assign(new PassThrough(), { headers });
  return Object.assign(stream, { asRequest: stream as unknown as IncomingMessage });
}

const bodies = (bytesMax = 1_000): UnfinishedBodies =>
  new UnfinishedBodies({ bodyBytesMax: 100, bytesMax });

/** Lets what was written arrive. */
const arrive = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('a body is put together, and holds memory until it is whole', async () => {
  const unfinished = bodies();
  const sender = request();
  const reading = unfinished.read(sender.asRequest);
  sender.write('ab');
  await arrive();
  assert.equal(unfinished.bytes, 2);
  sender.end('c');
  assert.equal((await reading).toString(), 'abc');
  assert.equal(unfinished.bytes, 0);
});

test('a body of 100 bytes is taken; one byte more is too large, said or sent', async () => {
  const unfinished = bodies();
  const fits = request(100);
  const reading = unfinished.read(fits.asRequest);
  fits.end(Buffer.alloc(100));
  assert.equal((await reading).length, 100);
  await assert.rejects(unfinished.read(request(101).asRequest), { reason: 'BODY_TOO_LARGE' });
  const longer = request();
  const refused = assert.rejects(unfinished.read(longer.asRequest), { reason: 'BODY_TOO_LARGE' });
  longer.write(Buffer.alloc(101));
  await refused;
  assert.equal(unfinished.bytes, 0);
});

test('when memory is full, the body that has been arriving for longest is given up', async () => {
  const unfinished = bodies(200);
  const senders = [request(), request(), request()] as const;
  const [oldest, second, third] = senders.map(({ asRequest }) => unfinished.read(asRequest));
  const refused = assert.rejects(oldest as Promise<Buffer>, { reason: 'OVERLOADED' });
  for (const sender of senders) sender.write(Buffer.alloc(80));
  await refused;
  assert.equal(unfinished.bytes, 160);
  // What still comes of it is thrown away.
  senders[0].write(Buffer.alloc(500));
  for (const sender of [senders[1], senders[2]]) sender.end();
  assert.equal((await second)?.length, 80);
  assert.equal((await third)?.length, 80);
});

test('a sender that goes away in the middle holds nothing any more', async () => {
  const unfinished = bodies();
  const sender = request();
  const gone = assert.rejects(unfinished.read(sender.asRequest), { reason: 'MALFORMED_HTTP' });
  sender.write('ab');
  await arrive();
  sender.destroy();
  await gone;
  assert.equal(unfinished.bytes, 0);
});
