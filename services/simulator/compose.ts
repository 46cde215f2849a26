import type { AddressInfo } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { Lifecycle } from '../runtime/lifecycle.ts';
import { createLog, type Log } from '../runtime/log.ts';
import { startLoop } from '../runtime/loop.ts';
import { createMetrics } from '../runtime/metrics.ts';
import { startObservabilityServer } from '../runtime/observability-server.ts';
import type { SimulatorConfig } from './config.ts';
import { openDatabase } from './database.ts';
import { createHttpServer } from './http-server.ts';
import { KnobPanel } from './knobs.ts';
import { createRefundStore } from './refund-store.ts';
import { createRefunds, type Refunds } from './refunds.ts';
import { addKnobRoutes } from './routes/knobs.ts';
import { addPayPageRoutes } from './routes/pay-page.ts';
import { addRefundRoutes } from './routes/refunds.ts';
import { addSessionRoutes } from './routes/sessions.ts';
import { createSessionStore } from './session-store.ts';
import { createSessions, type Sessions } from './sessions.ts';
import { createStoredErrors } from './stored-errors.ts';
import { createWebhookQueue } from './webhook-queue.ts';
import { startWebhookSender } from './webhook-sender.ts';

/** Between two looks for sessions that ran out, and debits and refunds that are to be settled. */
const sweepIntervalMs = 200;
/** Of each kind in one look; they are one transaction. */
const sweptMax = 500;

/** A running simulator. */
export interface Running {
  /** The real ports, also where the configuration said 0. */
  readonly port: number;
  readonly metricsPort: number;
  readonly lifecycle: Lifecycle;
  readonly log: Log;
}

/** What a test may put in the place of a part. */
export interface Overrides {
  readonly log?: Log;
  /** The clock that sessions, refunds and webhooks follow, in milliseconds since 1970. */
  readonly now?: () => number;
}

/** Builds and starts the simulator. */
export async function compose(
  config: SimulatorConfig,
  overrides: Overrides = {},
): Promise<Running> {
  const log = overrides.log ?? createLog('simulator', config.logLevel);
  const now = overrides.now ?? Date.now;
  const lifecycle = new Lifecycle(log);
  const metrics = createMetrics('simulator');
  const database = openDatabase(config.dataFile);
  lifecycle.add('database', () => database.close());
  try {
    let port = config.port;
    const pageUrl = (): string => config.pageUrl || `http://${hostInUrl(config.listen)}:${port}`;
    const knobs = new KnobPanel(database);
    const webhooks = createWebhookQueue({ database, knobs, pageUrl });
    const parts = { database, webhooks, knobs, now };
    const sessions = createSessions({ ...parts, store: createSessionStore(database) });
    const refunds = createRefunds({ ...parts, sessions, store: createRefundStore(database) });
    const attempts = metrics.counter('simulator_webhook_attempts_total', 'Deliveries tried', [
      'outcome',
    ]);
    const waiting = metrics.gauge('simulator_webhooks_waiting', 'Webhooks not accepted yet');
    Object.assign(waiting, { collect: () => waiting.set(webhooks.count()) });

    // Known only after listening; nothing calls it before.
    let onChange = (): void => undefined;
    const stopping = new AbortController();
    const app = createHttpServer({
      ...{ apiKey: config.apiKey, knobs, log, stopping: stopping.signal },
      ...{ storedErrors: createStoredErrors(database), now },
      pages: (server) =>
        addPayPageRoutes(server, { sessions, knobs, now, onChange: () => onChange() }),
      api(server) {
        addSessionRoutes(server, { sessions, pageUrl, onChange: () => onChange() });
        addRefundRoutes(server, { refunds, onChange: () => onChange() });
        addKnobRoutes(server, { knobs, webhooks, onChange: () => onChange() });
      },
    });
    port = await listen(app, config);
    if (!['127.0.0.1', '::1', 'localhost'].includes(config.listen)) {
      log.warn({ listen: config.listen }, 'listening beyond this machine without TLS');
    }
    lifecycle.add('http server', () => {
      stopping.abort();
      return app.close();
    });
    const sender = startWebhookSender({
      ...{ url: config.webhookUrl, key: config.webhookKey, queue: webhooks, knobs, now, log },
      onAttempt: (outcome) => attempts.inc({ outcome }),
    });
    lifecycle.add('webhook sender', sender.stop);
    onChange = sender.wake;
    const sweep = startSweep({ sessions, refunds, onChange, log });
    lifecycle.add('sweep', sweep.stop);
    const machines = await startObservabilityServer({
      port: config.metricsPort,
      registry: metrics.registry,
      ready: () => [],
    });
    lifecycle.add('observability server', machines.stop);
    return { port, metricsPort: machines.port, lifecycle, log };
  } catch (error) {
    await lifecycle.stop();
    throw error;
  }
}

async function listen(app: FastifyInstance, config: SimulatorConfig): Promise<number> {
  await app.listen({ host: config.listen, port: config.port });
  return (app.server.address() as AddressInfo).port;
}

/** Time passes: sessions run out, debits are decided, pending refunds are settled. */
function startSweep(options: {
  sessions: Sessions;
  refunds: Refunds;
  onChange: () => void;
  log: Log;
}): { stop(): Promise<void> } {
  const { sessions, refunds, onChange, log } = options;
  const loop = startLoop({
    name: 'sweep',
    intervalMs: sweepIntervalMs,
    log,
    async run(signal) {
      let changed = sweptMax;
      while (changed >= sweptMax && !signal.aborted) {
        changed =
          sessions.closeOverdue(sweptMax) +
          sessions.settleDebits(sweptMax) +
          refunds.settleDue(sweptMax);
        if (changed > 0) onChange();
        changed += sessions.forgetOld(sweptMax);
        // Others have their turn between two transactions.
        await setImmediate();
      }
    },
  });
  return { stop: () => loop.stop() };
}

/** Where a browser on this machine finds a server that listens on `host`. */
function hostInUrl(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}
