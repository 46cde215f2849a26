import assert from 'node:assert/strict';
import type { AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { SMTPServer } from 'smtp-server';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { createConfirmationMails } from '../../services/events/confirmation-mail.ts';
import { createEventsMetrics } from '../../services/events/events-metrics.ts';
import { MailQueue } from '../../services/events/mail-queue.ts';
import { createMailTransport } from '../../services/events/mail-transport.ts';
import { knownEvent } from '../../services/events/order-event.ts';
import { type SendMails, startSendMails } from '../../services/events/send-mails.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { eventually } from '../support/eventually.ts';
import { openStores, orderEvent, type Stores, silent } from './support.ts';

let stores: Stores;
let server: SMTPServer;
let sender: SendMails | undefined;
const received: string[] = [];
const hanging = 1n;
const dead = new AbortController();

before(async () => {
  stores = await openStores('hanging_mail');
  server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    closeTimeout: 100,
    onData(stream, _, callback) {
      let text = '';
      stream.on('data', (chunk) => {
        text += String(chunk);
      });
      stream.on('end', () => {
        const [, orderId = ''] = /<order-(\d+)@/.exec(text) ?? [];
        received.push(orderId);
        // One mail is never answered.
        if (orderId !== String(hanging)) callback();
        else dead.signal.addEventListener('abort', () => callback());
      });
    },
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
after(async () => {
  dead.abort();
  await sender?.stop();
  await new Promise<void>((resolve) => server?.close(resolve));
  await stores?.close();
});

async function pay(...orderIds: bigint[]): Promise<void> {
  const mails = createConfirmationMails(stores.pool, () => sender?.wake());
  const status = OrderStatus.ORDER_STATUS_PAID;
  const events = orderIds.map((orderId) => knownEvent(orderEvent(orderId, { version: 2, status })));
  await mails(events, Deadline.after(5_000));
}

test('a mail that the server never answers takes one connection, and the others go on', async () => {
  const { port } = server.server.address() as AddressInfo;
  sender = startSendMails({
    queue: new MailQueue(stores.pool),
    transport: createMailTransport({ url: `smtp://127.0.0.1:${port}`, connectionsMax: 2 }),
    perSecond: 500,
    connectionsMax: 2,
    from: 'orders@shop.example',
    recipient: 'user-{userId}@example.com',
    retryFirstMs: 20,
    metrics: createEventsMetrics(createMetrics('test')),
    log: silent,
  });
  await pay(hanging);
  await eventually(() => received.includes(String(hanging)), 'the server has it and says nothing');
  for (let round = 0n; round < 5n; round += 1n) {
    const orderId = 100n + round;
    await pay(orderId);
    await eventually(
      () => received.includes(String(orderId)),
      `mail ${orderId} arrives beside it`,
      {
        withinMs: 15_000,
      },
    );
  }
  const [rows] = await stores.pool.query(
    'SELECT order_id FROM confirmation_mails WHERE sent_time IS NULL',
  );
  assert.ok((rows as { order_id: string }[]).some(({ order_id: id }) => id === String(hanging)));
});

test('a mail that the client itself refuses says nothing about the server', async () => {
  const { port } = server.server.address() as AddressInfo;
  const transport = createMailTransport({ url: `smtp://127.0.0.1:${port}`, connectionsMax: 1 });
  try {
    const mail = {
      ...{ from: 'orders@shop.example', to: '', messageId: '<order-5@shop.example>' },
      ...{ subject: 's', text: 't', html: 'h' },
    };
    const { kind } = await transport.send(mail, AbortSignal.timeout(10_000));
    assert.equal(kind, 'refused');
  } finally {
    transport.close();
  }
});
