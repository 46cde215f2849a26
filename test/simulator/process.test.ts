import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { repositoryDir } from '../../deploy/local/places.ts';
import { freePort } from '../../deploy/local/port.ts';
import {
  lastLinesOf,
  type ManagedProcess,
  spawnLogged,
  waitUntilReady,
} from '../../deploy/local/process.ts';
import { createSimulatorProvider } from '../../services/payment/providers/simulator/simulator-provider.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createLog } from '../../services/runtime/log.ts';
import { eventually } from '../support/eventually.ts';
import { apiKey, startReceiver, webhookKey } from './support.ts';

const main = join(repositoryDir, 'services/simulator/main.ts');

function spawnSimulator(
  dir: string,
  env: Readonly<Record<string, string>>,
): Promise<ManagedProcess> {
  return spawnLogged({
    name: 'simulator',
    command: process.execPath,
    args: [main],
    logFile: join(dir, 'simulator.log'),
    env: { PATH: process.env.PATH ?? '', ...env },
  });
}

test('kill -9 loses nothing that was answered: payments, and webhooks that nobody had accepted', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-simulator-process-'));
  const receiver = await startReceiver();
  receiver.status = 500;
  const port = await freePort(2);
  const metricsPort = port + 1;
  const url = `http://127.0.0.1:${port}`;
  const env = {
    SLUICE_SIMULATOR_PORT: String(port),
    SLUICE_SIMULATOR_METRICS_PORT: String(metricsPort),
    SLUICE_SIMULATOR_API_KEY: apiKey,
    SLUICE_SIMULATOR_DATA: join(dir, 'simulator.db'),
    SLUICE_SIMULATOR_WEBHOOK_URL: receiver.url,
    SLUICE_PAYMENT_WEBHOOK_KEYS: webhookKey,
  };
  const start = async (): Promise<ManagedProcess> => {
    const child = await spawnSimulator(dir, env);
    const probe = async () => (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok;
    await waitUntilReady({ child, probe, timeoutMs: 30_000 });
    return child;
  };
  let child = await start();
  try {
    const provider = createSimulatorProvider(
      { url, apiKey, webhookKeys: [webhookKey] },
      createLog('test', 'silent'),
    );
    const { reference } = await provider.openSession(
      {
        paymentId: 5n,
        orderId: 6n,
        amount: { currencyCode: 'USD', minorUnits: 700n },
        expireTime: new Date(Date.now() + 600_000),
      },
      Deadline.after(10_000),
    );
    await fetch(`${url}/pay/${reference}/pay`, { method: 'POST', redirect: 'manual' });
    await eventually(() => receiver.received.length > 0, 'a delivery is tried');
    await child.kill();
    receiver.received.length = 0;
    receiver.status = 200;
    child = await start();
    assert.equal((await provider.readSession(reference, Deadline.after(10_000))).kind, 'paid');
    await eventually(() => receiver.received.length > 0, 'the webhook arrives after all');
    assert.equal(receiver.received[0]?.event.data.session.id, reference);
  } finally {
    await child.stop();
    await receiver.stop();
    rmSync(dir, { recursive: true, force: true });
  }
});

test('without its secrets it does not start, and names every one that is missing', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-simulator-process-'));
  try {
    const child = await spawnSimulator(dir, { SLUICE_SIMULATOR_PORT: 'x' });
    const { code } = await child.exited;
    assert.equal(code, 1);
    const text = lastLinesOf(child.logFile).join('\n');
    for (const name of [
      'SLUICE_SIMULATOR_PORT',
      'SLUICE_SIMULATOR_API_KEY',
      'SLUICE_PAYMENT_WEBHOOK_KEYS',
    ]) {
      assert(text.includes(name), text);
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
