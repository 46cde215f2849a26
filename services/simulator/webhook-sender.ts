import { Agent, type IncomingMessage, request } from 'node:http';
import { Agent as SecureAgent, request as secureRequest } from 'node:https';
import type { Log } from '../runtime/log.ts';
import type { KnobPanel } from './knobs.ts';
import type { Webhook, WebhookQueue } from './webhook-queue.ts';
import { signatureHeader, signWebhook } from './webhook-signature.ts';

/** Deliveries under way at once. */
const inFlightMax = 128;
/** How long the other side may take to accept one. */
const deliveryTimeoutMs = 10_000;
/** Pause after the first failure; doubled with each further one up to the maximum, ±25 %. */
const backoffMs = 100;
const backoffMsMax = 5_000;
/** A webhook that nobody accepts for this long is given up, as providers do. */
const ageMsMax = 3 * 86_400_000;
/** The longest sleep: knobs may change what is due. */
const sleepMsMax = 500;

export interface WebhookSender {
  /** Looks for due webhooks now: one was added. */
  wake(): void;
  /** Ends after the deliveries under way were cut off; they are sent again after a restart. */
  stop(): Promise<void>;
}

export interface SenderOptions {
  readonly url: string;
  readonly key: string;
  readonly queue: WebhookQueue;
  readonly knobs: KnobPanel;
  readonly now: () => number;
  readonly log: Log;
  /** Counts each attempt: the status that was answered, or why there was none. */
  readonly onAttempt: (outcome: 'accepted' | 'refused' | 'failed' | 'given up') => void;
}

/** Delivers what the queue holds, each at least once, with a bounded number under way. */
export function startWebhookSender(options: SenderOptions): WebhookSender {
  const { queue, knobs, now, log, onAttempt } = options;
  const post = createPost(options.url);
  let timer: NodeJS.Timeout | undefined;
  let inFlight = 0;
  let stopped = false;
  let scheduled = false;
  let failing = false;

  async function deliver(webhook: Webhook): Promise<void> {
    const key = knobs.now.wrongSignature
      ? 'a key that nobody has, so that nobody accepts it'
      : options.key;
    const signature = signWebhook(webhook.body, key, Math.floor(now() / 1_000));
    let status = 0;
    try {
      status = await post.send(webhook.body, signature);
    } catch (error) {
      if (!failing && !stopped) log.warn({ err: error }, 'webhooks do not arrive, will try again');
      failing = true;
    }
    if (stopped) return;
    const isAccepted = status >= 200 && status < 300;
    if (isAccepted) {
      if (failing) log.info('webhooks arrive again');
      failing = false;
      queue.finish(webhook);
      onAttempt('accepted');
    } else if (now() - webhook.createMs > ageMsMax) {
      log.error({ attempts: webhook.attempts + 1, status }, 'a webhook is given up');
      queue.finish(webhook);
      onAttempt('given up');
    } else {
      queue.putBack(webhook, Math.round(now() + pauseMs(webhook.attempts)));
      onAttempt(status === 0 ? 'failed' : 'refused');
    }
  }

  function look(): void {
    scheduled = false;
    clearTimeout(timer);
    if (stopped) return;
    const room = inFlightMax - inFlight;
    const webhooks = room > 0 && !knobs.now.silence ? queue.claim(now(), room) : [];
    for (const webhook of webhooks) {
      inFlight += 1;
      void deliver(webhook).finally(() => {
        inFlight -= 1;
        wake();
      });
    }
    // With all places taken, the first delivery that ends looks again.
    const dueInMs = (queue.nextDueMs() ?? Number.POSITIVE_INFINITY) - now();
    timer = setTimeout(look, Math.min(Math.max(dueInMs, 10), sleepMsMax));
  }

  /** Many wakes of one turn of the event loop are one look, which claims a batch. */
  function wake(): void {
    if (scheduled || stopped) return;
    scheduled = true;
    setImmediate(look);
  }

  wake();
  return {
    wake,
    async stop() {
      stopped = true;
      clearTimeout(timer);
      post.close();
    },
  };
}

function pauseMs(attempts: number): number {
  const pause = Math.min(backoffMs * 2 ** Math.min(attempts, 10), backoffMsMax);
  return pause * (0.75 + Math.random() / 2);
}

/** Posts over kept connections; node's own client costs a third of what `fetch` does. */
function createPost(url: string): {
  /** Answers the HTTP status. @throws Error if there was no answer */
  send(body: string, signature: string): Promise<number>;
  close(): void;
} {
  const isSecure = url.startsWith('https:');
  const settings = { keepAlive: true, maxSockets: inFlightMax };
  const agent = isSecure ? new SecureAgent(settings) : new Agent(settings);
  const target = new URL(url);
  const open = isSecure ? secureRequest : request;
  return {
    send: (body, signature) =>
      new Promise((resolve, reject) => {
        const headers = {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          [signatureHeader]: signature,
        };
        const options = { agent, method: 'POST', headers, timeout: deliveryTimeoutMs };
        const call = open(target, options, (response: IncomingMessage) => {
          response.resume();
          response.once('error', reject);
          response.once('end', () => resolve(response.statusCode ?? 0));
        });
        call.once('timeout', () => call.destroy(new Error('no answer in time')));
        call.once('error', reject);
        call.end(body);
      }),
    close: () => agent.destroy(),
  };
}
