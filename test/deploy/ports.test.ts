import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { Failure } from '../../deploy/local/failure.ts';
import { freePort, isPortOpen, requireFreePort } from '../../deploy/local/port.ts';

async function listenOn(t: TestContext, port: number): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, '127.0.0.1', resolve);
  });
  t.after(() => server.close());
}

test('a port in use is one sentence with the port, who wants it, who has it and the variable', async (t) => {
  const port = await freePort();
  await listenOn(t, port);
  await assert.rejects(
    requireFreePort({ port, name: 'edge', variable: 'SLUICE_EDGE_PORT' }),
    (error: Failure) => {
      assert.ok(error instanceof Failure);
      assert.match(error.message, new RegExp(`^Port ${port}, wanted by edge, is in use by `));
      assert.match(error.message, /choose another port with SLUICE_EDGE_PORT\.$/);
      if (process.platform === 'linux') {
        assert.match(error.message, new RegExp(`node .*\\(pid ${process.pid}\\)`));
      }
      return true;
    },
  );
});

test('a free port passes', async () => {
  const port = await freePort();
  await requireFreePort({ port, name: 'edge', variable: 'SLUICE_EDGE_PORT' });
});

test('free ports lie below those that outgoing connections get', async () => {
  for (let i = 0; i < 20; i += 1) assert.ok((await freePort(2)) < 32_000);
});

test('no port is given twice, for a server takes a while to listen on its own', async () => {
  const pairs = await Promise.all(Array.from({ length: 400 }, () => freePort(2)));
  const ports = pairs.flatMap((port) => [port, port + 1]);
  assert.equal(new Set(ports).size, ports.length);
});

test('a port is open only while something listens', async (t) => {
  const port = await freePort();
  assert.equal(await isPortOpen(port), false);
  await listenOn(t, port);
  assert.equal(await isPortOpen(port, '127.0.0.1', 30_000), true);
});
