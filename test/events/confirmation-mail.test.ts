import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import type { RowDataPacket } from 'mysql2';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { createConfirmationMails } from '../../services/events/confirmation-mail.ts';
import { createEventsMetrics } from '../../services/events/events-metrics.ts';
import { MailQueue } from '../../services/events/mail-queue.ts';
import { escapeHtml, formatMoney } from '../../services/events/mail-text.ts';
import { createMailTransport } from '../../services/events/mail-transport.ts';
import { decodeOrderEvent } from '../../services/events/order-event.ts';
import { type SendMails, startSendMails } from '../../services/events/send-mails.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { FailpointError, failpoints } from '../../services/runtime/failpoints.ts';
import { loopAgesMs } from '../../services/runtime/loop.ts';
import { createMetrics, type Metrics } from '../../services/runtime/metrics.ts';
import { eventually } from '../support/eventually.ts';
import {
  type Mailbox,
  mailedOrders,
  messageOf,
  openMailbox,
  openStores,
  orderEvent,
  type Stores,
  silent,
} from './support.ts';

let stores: Stores;
let mailbox: Mailbox;
let registry: Metrics;
let sender: SendMails | undefined;
let senders: SendMails[] = [];

before(async () => {
  stores = await openStores('mail');
  mailbox = await openMailbox();
});

after(async () => {
  await mailbox.close();
  await stores.close();
});

beforeEach(async () => {
  await stores.pool.query('DELETE FROM confirmation_mails');
  mailbox.mails.length = 0;
  mailbox.refuse = undefined;
  await mailbox.up();
});

afterEach(async () => {
  failpoints.clear();
  await Promise.all(senders.map((each) => each.stop()));
  senders = [];
  sender = undefined;
});

function send(perSecond = 500): SendMails {
  registry = createMetrics('test');
  sender = startSendMails({
    queue: new MailQueue(stores.pool),
    transport: createMailTransport({ url: mailbox.catcher.url, connectionsMax: 4 }),
    perSecond,
    connectionsMax: 4,
    from: 'Sluice <orders@shop.example>',
    recipient: 'user-{userId}@example.com',
    retryFirstMs: 20,
    metrics: createEventsMetrics(registry),
    log: silent,
  });
  senders.push(sender);
  return sender;
}

async function pay(...orderIds: bigint[]): Promise<void> {
  await handle(orderIds.map((orderId) => paid(orderId)));
}

function paid(orderId: bigint, event: Partial<OrderEvent> = {}): OrderEvent {
  return orderEvent(orderId, { version: 2, status: OrderStatus.ORDER_STATUS_PAID, ...event });
}

async function handle(events: readonly OrderEvent[]): Promise<void> {
  const mails = createConfirmationMails(stores.pool, () => sender?.wake());
  const known = events.map((event) => decodeOrderEvent(messageOf(event).value));
  await mails(known, Deadline.after(5_000));
}

const sentTo = (orderId: bigint): string[] =>
  mailbox.mails.filter(({ text }) => text.includes(`<order-${orderId}@`)).map(({ text }) => text);

async function row(orderId: bigint): Promise<RowDataPacket> {
  const sql = 'SELECT * FROM confirmation_mails WHERE order_id = ?';
  const [[found]] = await stores.pool.query<RowDataPacket[]>(sql, [orderId]);
  assert(found);
  return found;
}

/** How long the loop has not ended a round well, in milliseconds. */
const ageMs = (): number => loopAgesMs().get('confirmation mails') ?? 0;
/** More than between two rounds of a loop that works, the rest of up to 1.2 s included. */
const standsMs = 3_000;

async function metric(line: string): Promise<number> {
  const found = (await registry.registry.metrics())
    .split('\n')
    .find((candidate) => candidate.startsWith(line));
  return Number(found?.split(' ').at(-1) ?? 0);
}

test('the buyer of a paid order gets one mail that says what was paid', async () => {
  send();
  const price = { currencyCode: 'JPY', minorUnits: 1_300n };
  const items = [{ skuId: 9n, quantity: 2, unitPrice: price }];
  const total = { currencyCode: 'JPY', minorUnits: 2_600n };
  await handle([paid(77n, { userId: 5n, items, total })]);
  await eventually(() => mailbox.mails.length === 1, 'the mail arrives');
  const [mail] = mailbox.mails;
  assert(mail);
  assert.deepEqual(mail.recipients, ['user-5@example.com']);
  assert.match(mail.text, /^Message-ID: <order-77@shop\.example>\r$/im);
  assert.match(mail.text, /^From: Sluice <orders@shop\.example>\r$/im);
  assert.match(mail.text, /^Subject: Your order 77 is paid\r$/im);
  assert.match(mail.text, /Content-Type: text\/plain/);
  assert.match(mail.text, /Content-Type: text\/html/);
  assert.match(mail.text, /2 x Item 9 at JPY 1,300: JPY 2,600/);
  assert.match(mail.text, /<td>JPY 2,600<\/td>/);
  await eventually(async () => (await row(77n)).sent_time !== null, 'it is marked as sent');
  assert.equal((await row(77n)).next_time, null);
  // It is counted behind the mark.
  const counted = async () => (await metric('mail_sent_total{status="sent"')) === 1;
  await eventually(counted, 'it is counted once');
});

test('an order whose events come again, later ones too, gets no second mail', async () => {
  send();
  await pay(1n);
  await eventually(() => sentTo(1n).length === 1, 'the mail arrives');
  const refunding = OrderStatus.ORDER_STATUS_REFUNDING;
  await handle([paid(1n), paid(1n, { version: 3, status: refunding }), paid(2n)]);
  await eventually(() => sentTo(2n).length === 1, 'the mail behind it arrives');
  assert.equal(sentTo(1n).length, 1);
});

test('an order that is known to be refunded before it is known to be paid gets its mail', async () => {
  send();
  await handle([paid(3n, { version: 4, status: OrderStatus.ORDER_STATUS_REFUNDED })]);
  await handle([paid(3n)]);
  await eventually(() => sentTo(3n).length === 1, 'the mail arrives');
  assert.deepEqual(await mailedOrders(stores.pool), [3n]);
});

test('orders that were not paid get no mail', async () => {
  send();
  const cancelled = OrderStatus.ORDER_STATUS_CANCELLED;
  await handle([orderEvent(4n), orderEvent(5n, { version: 2, status: cancelled })]);
  assert.deepEqual(await mailedOrders(stores.pool), []);
});

test('a sender that dies behind the sending sends again, with the same Message-ID', async () => {
  let deaths = 0;
  failpoints.set('mail.after_send', () => {
    deaths += 1;
    if (deaths === 1) throw new FailpointError('mail.after_send');
  });
  await pay(6n);
  const first = send();
  await eventually(() => deaths === 1, 'the first sender dies');
  await first.stop();
  assert.equal((await row(6n)).sent_time, null);
  assert.notEqual((await row(6n)).owner, null);
  // Its claim ends.
  await stores.pool.query('UPDATE confirmation_mails SET next_time = NOW(3)');
  send();
  await eventually(() => sentTo(6n).length === 2, 'the mail comes a second time');
  await eventually(async () => (await row(6n)).sent_time !== null, 'it is marked as sent');
  assert.equal((await row(6n)).attempts, 2);
});

test('mails that are claimed by another sender are left to it', async () => {
  await pay(7n, 8n);
  const [claimed] = await new MailQueue(stores.pool).claim(1, 60_000);
  assert(claimed);
  send();
  const other = claimed.orderId === 7n ? 8n : 7n;
  await eventually(() => sentTo(other).length === 1, 'the other mail arrives');
  assert.equal(sentTo(claimed.orderId).length, 0);
});

test('a mail that was put off while the clock was ten minutes ahead is sent at once', async () => {
  await pay(15n);
  // A second has passed since the clock was set back.
  await stores.pool.query('UPDATE confirmation_mails SET next_time = NOW(3) + INTERVAL 599 SECOND');
  assert.equal(await new MailQueue(stores.pool).countDue(), 1);
  send();
  await eventually(() => sentTo(15n).length === 1, 'the mail arrives', { withinMs: 30_000 });
});

test('a sender whose claim has passed to another does not decide about the mail', async () => {
  await pay(9n);
  const queue = new MailQueue(stores.pool);
  const [slow] = await queue.claim(1, 60_000);
  await stores.pool.query('UPDATE confirmation_mails SET next_time = NOW(3)');
  const [quick] = await queue.claim(1, 60_000);
  assert(slow && quick);
  await queue.giveUp(slow, 'too slow');
  assert.equal((await row(9n)).failure, '');
  await queue.sent(quick);
  assert.notEqual((await row(9n)).sent_time, null);
});

test('while the server is down mails wait, and they are sent when it is back', async () => {
  const orderIds = Array.from({ length: 30 }, (_, index) => 100n + BigInt(index));
  await mailbox.down();
  send();
  await pay(...orderIds);
  await eventually(
    async () => (await metric('circuit_breaker_state')) === 2,
    'the circuit opens, so that the server is left alone',
  );
  assert.deepEqual(await mailedOrders(stores.pool, 'sent_time IS NULL'), orderIds);
  await eventually(() => ageMs() > standsMs, 'the age of the loop rises');
  await mailbox.up();
  await eventually(() => orderIds.every((id) => sentTo(id).length === 1), 'all arrive');
  await eventually(
    async () => (await mailedOrders(stores.pool, 'sent_time IS NULL')).length === 0,
    'all are marked as sent',
  );
  await eventually(() => ageMs() < standsMs, 'the age of the loop falls');
});

test('a mail that the server defers is sent later', async () => {
  let refusals = 0;
  mailbox.refuse = () => {
    refusals += 1;
    return refusals <= 4 ? { code: 451, message: 'later, please' } : undefined;
  };
  send();
  await pay(10n);
  await eventually(() => sentTo(10n).length === 1, 'the mail arrives');
  assert.equal(refusals, 5);
});

test('a mail that the server refuses for good is given up, its failure is kept, and others go', async () => {
  let refusals = 0;
  mailbox.refuse = ({ text }) => {
    if (!text.includes('<order-11@')) return undefined;
    refusals += 1;
    return { code: 550, message: 'no such user' };
  };
  send();
  await pay(11n, 12n);
  await eventually(() => sentTo(12n).length === 1, 'the other mail arrives');
  await eventually(async () => (await row(11n)).next_time === null, 'it is given up');
  const { failure, attempts, sent_time: sentTime } = await row(11n);
  assert.match(failure, /no such user/);
  assert.deepEqual([attempts, refusals, sentTime], [3, 3, null]);
  // It is counted behind the row.
  const counted = async () => (await metric('mail_sent_total{status="given_up"')) === 1;
  await eventually(counted, 'it is counted once');
  assert.equal(await metric('circuit_breaker_state'), 0);
});

test('a mail that could not be sent for days is given up', async () => {
  await mailbox.down();
  await pay(13n);
  await stores.pool.query(
    'UPDATE confirmation_mails SET create_time = NOW(3) - INTERVAL 6 DAY WHERE order_id = 13',
  );
  send();
  await eventually(async () => (await row(13n)).next_time === null, 'it is given up');
  await mailbox.up();
  assert.match((await row(13n)).failure, /ECONNREFUSED/);
});

test('a row that cannot be read is given up and holds up no other', async () => {
  await pay(14n, 15n);
  await stores.pool.query("UPDATE confirmation_mails SET payload = 'x' WHERE order_id = 14");
  send();
  await eventually(() => sentTo(15n).length === 1, 'the other mail arrives');
  await eventually(async () => (await row(14n)).next_time === null, 'it is given up');
  assert.match((await row(14n)).failure, /cannot be read/);
});

test('two senders share the mails without sending one twice', async () => {
  const orderIds = Array.from({ length: 150 }, (_, index) => 300n + BigInt(index));
  await pay(...orderIds);
  const first = send();
  const second = send();
  await eventually(() => orderIds.every((id) => sentTo(id).length >= 1), 'all arrive');
  await first.stop();
  await second.stop();
  assert.equal(mailbox.mails.length, orderIds.length);
});

test('amounts have the digits of their currency and are exact at any size', () => {
  const format = (currencyCode: string, minorUnits: bigint): string =>
    formatMoney({ currencyCode, minorUnits });
  assert.equal(format('EUR', 129_990n), 'EUR 1,299.90');
  assert.equal(format('EUR', 5n), 'EUR 0.05');
  assert.equal(format('JPY', 1_300n), 'JPY 1,300');
  assert.equal(format('KWD', 1_234n), 'KWD 1.234');
  assert.equal(format('EUR', 9_223_372_036_854_775_807n), 'EUR 92,233,720,368,547,758.07');
});

test('what could be markup is escaped', () => {
  assert.equal(escapeHtml(`<b>&"'`), '&lt;b&gt;&amp;&quot;&#39;');
});
