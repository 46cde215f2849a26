import { getPriority, setPriority } from 'node:os';
import { Deadline } from '../runtime/deadline.ts';
import { type EventConsumer, startEventConsumer } from '../runtime/event-consumer.ts';
import { EventPacer } from '../runtime/event-pacer.ts';
import { createEventPublisher, type EventPublisher } from '../runtime/event-publisher.ts';
import { orderEventsTopic } from '../runtime/kafka.ts';
import type { Lifecycle } from '../runtime/lifecycle.ts';
import type { Log } from '../runtime/log.ts';
import { createMetrics } from '../runtime/metrics.ts';
import { createPool, type Pool, query } from '../runtime/mysql.ts';
import { startObservabilityServer } from '../runtime/observability-server.ts';
import { startService } from '../runtime/start-service.ts';
import { startCatchUp } from './catch-up.ts';
import type { EventsConfig } from './config.ts';
import { createConfirmationMails } from './confirmation-mail.ts';
import { createEventsMetrics, type EventsMetrics } from './events-metrics.ts';
import { MailQueue } from './mail-queue.ts';
import { createMailTransport } from './mail-transport.ts';
import { decodeOrderEvent } from './order-event.ts';
import { connectOrderStates, type OrderStates } from './order-states.ts';
import {
  mailProjection,
  type Projection,
  statisticsProjection,
  warehouseProjection,
} from './projections.ts';
import { type SendMails, startSendMails } from './send-mails.ts';
import { createUserStatistics } from './user-statistics.ts';
import { createMysqlWarehouse, createWarehouseFacts, type Warehouse } from './warehouse.ts';

/** What tests replace; everything else is built from the configuration. */
export interface EventsOverrides {
  readonly warehouse?: Warehouse;
  readonly order?: OrderStates;
  readonly log?: Log;
}

/** A running events process. */
export interface RunningEvents {
  readonly metricsPort: number;
  /** Whether each consumer has joined its group. */
  joined(): boolean;
  readonly lifecycle: Lifecycle;
  readonly log: Log;
}

const mailConsumer = 'confirmation-mail';
/** One connection for each partition that a consumer handles at once, and some to spare. */
const warehouseConnectionsMax = 6;
const readyMs = 1_000;

/** Builds and starts the events process; what was started is stopped again if a part cannot start. */
export async function compose(
  config: EventsConfig,
  overrides: EventsOverrides = {},
): Promise<RunningEvents> {
  // Statistics and mails can wait when buyers want the CPU. Only root may step forward again.
  if (config.niceness > getPriority()) setPriority(config.niceness);
  return await startService('events', config, overrides.log, (log, lifecycle) =>
    start(config, overrides, log, lifecycle),
  );
}

async function start(
  config: EventsConfig,
  overrides: EventsOverrides,
  log: Log,
  lifecycle: Lifecycle,
): Promise<RunningEvents> {
  const registry = createMetrics('events');
  const metrics = createEventsMetrics(registry);
  const { databasePrefix, connectionsMax, kafkaBrokers: brokers } = config;
  const pool = createPool(config.mysqlUrl, {
    database: `${databasePrefix}_events`,
    connectionsMax,
  });
  lifecycle.add('statistics and mails', () => pool.end());
  const warehouse = overrides.warehouse ?? openWarehouse(config, lifecycle);
  const publisher = createEventPublisher({ clientId: 'sluice-events', brokers, log });
  lifecycle.add('event publisher', () => publisher.close());
  const mails = startMails(config, pool, metrics, log);
  lifecycle.add('confirmation mails', () => mails.stop());

  const projections = [
    statisticsProjection('user-statistics', createUserStatistics(pool), pool),
    warehouseProjection('warehouse', createWarehouseFacts(warehouse), warehouse),
    mailProjection(
      mailConsumer,
      createConfirmationMails(pool, () => mails.wake()),
      pool,
    ),
  ];
  const consumers: EventConsumer[] = [];
  // Side by side, because each may have to wait for a Kafka that is away.
  lifecycle.add('consumers', async () => {
    await Promise.all(consumers.map((each) => each.stop()));
  });
  const order =
    overrides.order ?? connectOrderStates({ addresses: config.orderAddresses, log, metrics });
  lifecycle.add('order states', () => order.close());
  for (const projection of projections) {
    // A buyer waits for the mail; and of most events it makes nothing, so there is little to pace.
    const isPaced = projection.name !== mailConsumer;
    const pacer = new EventPacer(isPaced ? config.eventsPerSecondMax : undefined);
    consumers.push(await follow(config, projection, { pacer, publisher, metrics, log }));
    const catchUp = startCatchUp({
      ...{ pool, order, projection, pacer, metrics, log },
      ageMs: config.catchUpAgeMs,
    });
    lifecycle.add(`catch-up of ${projection.name}`, () => catchUp.stop());
  }
  const observability = await startObservabilityServer({
    port: config.metricsPort,
    registry: registry.registry,
    async ready() {
      const waitingFor = (await answers(pool)) ? [] : ['mysql'];
      return consumers.every((each) => each.connected()) ? waitingFor : [...waitingFor, 'kafka'];
    },
  });
  lifecycle.add('observability server', () => observability.stop());
  const joined = (): boolean => consumers.every((each) => each.joined());
  return { metricsPort: observability.port, joined, lifecycle, log };
}

interface FollowParts {
  readonly pacer: EventPacer;
  readonly publisher: EventPublisher;
  readonly metrics: EventsMetrics;
  readonly log: Log;
}

/** One consumer group; without Kafka it goes on trying to join. */
async function follow(
  { kafkaBrokers: brokers, topicPrefix }: EventsConfig,
  { name, handle }: Projection,
  { pacer, publisher, metrics, log }: FollowParts,
): Promise<EventConsumer> {
  return await startEventConsumer({
    ...{ brokers, publisher, log, metrics: metrics.consumers },
    groupId: `${topicPrefix}${name}`,
    topic: orderEventsTopic(topicPrefix),
    decode: decodeOrderEvent,
    sparing: true,
    pacer,
    async handle(events, deadline) {
      await handle(events, deadline);
      metrics.applied.inc({ consumer: name }, events.length);
    },
  });
}

function openWarehouse(
  { warehouseUrl, databasePrefix }: EventsConfig,
  lifecycle: Lifecycle,
): Warehouse {
  const pool = createPool(warehouseUrl, {
    database: `${databasePrefix}_warehouse`,
    connectionsMax: warehouseConnectionsMax,
    foreign: true,
  });
  lifecycle.add('warehouse', () => pool.end());
  return createMysqlWarehouse(pool);
}

function startMails(config: EventsConfig, pool: Pool, metrics: EventsMetrics, log: Log): SendMails {
  const connectionsMax = config.mailConnectionsMax;
  return startSendMails({
    queue: new MailQueue(pool),
    transport: createMailTransport({ url: config.smtpUrl, connectionsMax }),
    perSecond: config.mailPerSecond,
    connectionsMax,
    from: config.mailFrom,
    recipient: config.mailRecipient,
    retryFirstMs: config.mailRetryFirstMs,
    metrics,
    log,
  });
}

async function answers(pool: Pool): Promise<boolean> {
  return await query(pool, 'SELECT 1', [], { deadline: Deadline.after(readyMs) }).then(
    () => true,
    () => false,
  );
}
