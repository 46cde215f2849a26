import { createTransport } from 'nodemailer';

export interface Mail {
  readonly from: string;
  readonly to: string;
  /** With its angle brackets; equal for every sending of the same mail. */
  readonly messageId: string;
  readonly subject: string;
  readonly text: string;
  readonly html: string;
}

/** What the server said of one mail. */
export type MailAnswer =
  | { readonly kind: 'sent' }
  /** For good: 5xx. */
  | { readonly kind: 'refused'; readonly reason: string }
  /** For now: 4xx. */
  | { readonly kind: 'deferred'; readonly reason: string };

export interface MailTransport {
  /** @throws Error if the server could not be used at all; whether it took the mail is unknown */
  send(mail: Mail, signal: AbortSignal): Promise<MailAnswer>;
  /** Whether the server can be used now. */
  reachable(): Promise<boolean>;
  close(): void;
}

const connectMs = 5_000;
const silenceMs = 20_000;
/** Some servers count; a connection is not used for ever. */
const mailsPerConnection = 100;
/** The server is closing down: no word about the mail. */
const closingCode = 421;

/** Sends by SMTP over a few kept connections. */
export function createMailTransport({
  url,
  connectionsMax,
}: {
  /** `smtp://` or `smtps://`, with user and password where needed. */
  readonly url: string;
  readonly connectionsMax: number;
}): MailTransport {
  const transport = createTransport({
    url,
    pool: true,
    maxConnections: connectionsMax,
    maxMessages: mailsPerConnection,
    // A mail goes back to our own queue, which is durable and knows when to try again.
    maxRequeues: 0,
    connectionTimeout: connectMs,
    greetingTimeout: connectMs,
    dnsTimeout: connectMs,
    socketTimeout: silenceMs,
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  return {
    async send(mail, signal) {
      try {
        const headers = { 'Auto-Submitted': 'auto-generated' };
        await transport.sendMail({ ...mail, headers, signal });
        return { kind: 'sent' };
      } catch (error) {
        return answerOf(error);
      }
    },
    async reachable() {
      return await transport.verify().then(
        () => true,
        () => false,
      );
    },
    close: () => transport.close(),
  };
}

/**
 * A reply to the envelope or the mail is an answer, and so is the client's own word that they are none: neither says
 * anything about other mails. All else is a server that cannot be used.
 */
function answerOf(error: unknown): MailAnswer {
  const { code, responseCode } = error as { code?: unknown; responseCode?: unknown };
  const aboutMail = code === 'EENVELOPE' || code === 'EMESSAGE';
  if (!aboutMail || responseCode === closingCode) throw error;
  const isForNow = typeof responseCode === 'number' && responseCode < 500;
  return { kind: isForNow ? 'deferred' : 'refused', reason: (error as Error).message };
}
