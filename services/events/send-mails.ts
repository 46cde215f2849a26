import Bottleneck from 'bottleneck';
import { createBreaker } from '../runtime/breaker.ts';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { RecentAttempts } from '../runtime/recent-attempts.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { EventsMetrics } from './events-metrics.ts';
import type { ClaimedMail, MailQueue } from './mail-queue.ts';
import { confirmationText } from './mail-text.ts';
import type { Mail, MailAnswer, MailTransport } from './mail-transport.ts';
import { decodeOrderEvent } from './order-event.ts';

export interface SendMailsOptions {
  readonly queue: MailQueue;
  readonly transport: MailTransport;
  /** Mails a second at most. */
  readonly perSecond: number;
  /** Mails under way at most. */
  readonly connectionsMax: number;
  readonly from: string;
  /** Address of a buyer, with `{userId}` in it. */
  readonly recipient: string;
  /** How long the first retry waits; each further one twice as long. */
  readonly retryFirstMs: number;
  readonly metrics: EventsMetrics;
  readonly log: Log;
}

export interface SendMails {
  /** Looks for mails now. */
  wake(): void;
  stop(): Promise<void>;
}

/** A claim outlasts the sending of all its mails, or gives the rest back. */
const claimMs = 120_000;
const claimMailsMax = 100;
const sendMs = 30_000;
/** Mails that are being sent when the process stops may end; the others wait for the next one. */
const stopGraceMs = 5_000;
const idleMs = 1_000;
const countEveryMs = 5_000;
/** A round ends well after so long, also while there are always more mails: its age shows that it works. */
const roundMsMax = 1_000;
const retryLastMs = 300_000;
/** While the server is away. */
const giveBackMs = 2_000;
/** A server may say 5xx in error; it says it once more, and once more, before we believe it. */
const refusalsMax = 3;
/** As mail servers do. */
const giveUpAfterSeconds = 5 * 24 * 3_600;

/**
 * Sends the mails that are due, paced, at least once: claimed first, marked as sent behind the
 * server's word. A mail that is sent again has the same Message-ID. While the server is away the
 * mails wait, and nothing else does.
 */
export function startSendMails(options: SendMailsOptions): SendMails {
  const { queue, transport, perSecond, connectionsMax, metrics, log } = options;
  const claimMax = Math.min(claimMailsMax, Math.max(1, perSecond));
  const limiter = new Bottleneck({
    maxConcurrent: connectionsMax,
    minTime: 1_000 / perSecond,
    highWater: claimMax,
    strategy: Bottleneck.strategy.OVERFLOW,
  });
  const breaker = createBreaker({
    name: 'events.smtp',
    log,
    state: metrics.breakerState,
    probe: () => transport.reachable(),
    isConnectionLoss: () => true,
  });
  const stopped = new AbortController();

  async function deliver(mail: Mail): Promise<MailAnswer> {
    const signal = AbortSignal.any([stopped.signal, AbortSignal.timeout(sendMs)]);
    return await breaker.fire(() => transport.send(mail, signal));
  }

  const underWay = new Set<Promise<void>>();
  const attempts = new RecentAttempts();

  function begin(mail: ClaimedMail, isUsable: () => boolean): void {
    const sending = limiter
      .schedule(() => sendOne({ ...options, attempts }, deliver, mail, isUsable))
      // It is due again when its claim ends.
      .catch((error) => log.warn({ err: error }, 'what became of a mail is not stored'))
      .finally(() => underWay.delete(sending));
    underWay.add(sending);
  }

  const loop: Loop = startLoop({
    name: 'confirmation mails',
    intervalMs: idleMs,
    log,
    async run(stopping) {
      const untilMs = performance.now() + roundMsMax;
      while (!stopping.aborted) {
        if (breaker.open) throw new Refusal('DEPENDENCY_DOWN', 'The mail server is away');
        const usable = Deadline.after(claimMs - sendMs);
        const mails = await queue.claim(claimMax - underWay.size, claimMs);
        if (mails.length === 0) return attempts.check(0);
        if (failpoints.on) await failpoints.hit('mail.after_claim', { mails: mails.length });
        const isUsable = (): boolean =>
          !stopped.signal.aborted && !stopping.aborted && !usable.passed;
        for (const mail of mails) begin(mail, isUsable);
        // One that hangs takes a connection; the others go on, and more are claimed beside it.
        while (underWay.size > claimMax / 2) await Promise.race(underWay);
        if (performance.now() < untilMs) continue;
        attempts.check(0);
        return loop.wake();
      }
    },
  });
  const counting = startLoop({
    name: 'count of due mails',
    intervalMs: countEveryMs,
    log,
    run: async () => metrics.mailDue.set(await queue.countDue()),
  });
  return {
    wake: loop.wake,
    async stop() {
      const timer = setTimeout(() => stopped.abort(), stopGraceMs);
      await Promise.all([loop.stop(), counting.stop()]);
      await Promise.all(underWay);
      clearTimeout(timer);
      await limiter.disconnect();
      breaker.stop();
      transport.close();
    },
  };
}

async function sendOne(
  options: SendMailsOptions & { readonly attempts: RecentAttempts },
  deliver: (mail: Mail) => Promise<MailAnswer>,
  claimed: ClaimedMail,
  isUsable: () => boolean,
): Promise<void> {
  const { queue, metrics, log, attempts } = options;
  if (!isUsable()) return await queue.giveBack(claimed, 0);
  const mail = readMail(options, claimed);
  if (mail === undefined) {
    await queue.giveUp(claimed, 'the order event cannot be read');
    metrics.mailSent.inc({ status: 'given_up' });
    return;
  }
  if (failpoints.on) await failpoints.hit('mail.before_send', { orderId: claimed.orderId });
  let answer: MailAnswer;
  try {
    answer = await deliver(mail);
  } catch (error) {
    // The circuit is open: nothing was tried.
    if (error instanceof Refusal) return await queue.giveBack(claimed, giveBackMs);
    answer = { kind: 'deferred', reason: error instanceof Error ? error.message : String(error) };
  }
  if (failpoints.on) await failpoints.hit('mail.after_send', { orderId: claimed.orderId });
  // A refusal is about one mail.
  if (answer.kind === 'sent') attempts.succeeded();
  else if (answer.kind === 'deferred') attempts.failed(new Error(answer.reason));
  if (answer.kind === 'sent') {
    await queue.sent(claimed);
    metrics.mailSent.inc({ status: 'sent' });
  } else if (isHopeless(answer.kind, claimed)) {
    log.error({ reason: answer.reason, orderId: String(claimed.orderId) }, 'mail is given up');
    await queue.giveUp(claimed, answer.reason);
    metrics.mailSent.inc({ status: 'given_up' });
  } else {
    const afterMs = Math.min(options.retryFirstMs * 2 ** (claimed.attempts - 1), retryLastMs);
    await queue.retry(claimed, afterMs * (0.8 + 0.4 * Math.random()), answer.reason);
    metrics.mailSent.inc({ status: 'failed' });
  }
}

function isHopeless(
  kind: 'refused' | 'deferred',
  { attempts, ageSeconds }: Pick<ClaimedMail, 'attempts' | 'ageSeconds'>,
): boolean {
  return (kind === 'refused' && attempts >= refusalsMax) || ageSeconds > giveUpAfterSeconds;
}

/** The mail of a row, or nothing if the row is damaged. */
function readMail(
  { from, recipient }: Pick<SendMailsOptions, 'from' | 'recipient'>,
  { orderId, payload }: ClaimedMail,
): Mail | undefined {
  try {
    const event = decodeOrderEvent(payload);
    const domain = /@([^\s<>]+?)>?$/.exec(from.trim())?.[1] ?? 'localhost';
    return {
      from,
      to: recipient.replaceAll('{userId}', String(event.userId)),
      messageId: `<order-${orderId}@${domain}>`,
      ...confirmationText(event),
    };
  } catch {
    return undefined;
  }
}
