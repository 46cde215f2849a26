import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { SMTPServer, type SMTPServerDataStream, type SMTPServerSession } from 'smtp-server';

/** A mail that was accepted. */
export interface CaughtMail {
  readonly file: string;
  readonly recipients: readonly string[];
  /** Headers and body, as they came. */
  readonly text: string;
}

/** What a test answers instead of "accepted", such as 550 or 451. */
export interface MailRefusal {
  readonly code: number;
  readonly message: string;
}

export interface MailCatcherOptions {
  /** On loopback; 0 lets the system choose. */
  readonly port: number;
  /** Each mail becomes a file `<time>-<message id>.eml` here. */
  readonly dir: string;
  /** The oldest files beyond this many are removed; default 5,000. */
  readonly filesMax?: number;
  /** Asked before a mail is kept. */
  readonly refuse?: (mail: Omit<CaughtMail, 'file'>) => MailRefusal | undefined;
  /** Told of each mail that was kept. */
  readonly onMail?: (mail: CaughtMail) => void;
}

export interface MailCatcher {
  readonly port: number;
  readonly url: string;
  /** Ends open connections too, as a server that goes down does. */
  stop(): Promise<void>;
}

const filesMaxDefault = 5_000;
const mailBytesMax = 1024 * 1024;
const connectionsMax = 50;
const idleMs = 60_000;
const stopGraceMs = 100;

/** Starts a real SMTP server that keeps what it is sent in a folder and delivers nothing. */
export async function startMailCatcher(options: MailCatcherOptions): Promise<MailCatcher> {
  const { dir, filesMax = filesMaxDefault } = options;
  mkdirSync(dir, { recursive: true });
  const files = readdirSync(dir)
    .filter((name) => name.endsWith('.eml'))
    .sort();
  let count = 0;
  function keep(mail: Omit<CaughtMail, 'file'>): void {
    count += 1;
    const file = join(dir, fileName(mail.text, count));
    // Whoever looks into the folder never sees half a mail.
    writeFileSync(`${file}.part`, mail.text);
    renameSync(`${file}.part`, file);
    files.push(file.slice(dir.length + 1));
    while (files.length > filesMax) rmSync(join(dir, files.shift() as string), { force: true });
    options.onMail?.({ ...mail, file });
  }
  const server = new SMTPServer({
    name: 'mail-catcher',
    banner: 'keeps mails in a folder and delivers none',
    authOptional: true,
    disabledCommands: ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    size: mailBytesMax,
    maxClients: connectionsMax,
    socketTimeout: idleMs,
    closeTimeout: stopGraceMs,
    onData(stream, session, callback) {
      receive(stream, session)
        .then((mail) => {
          const refusal = options.refuse?.(mail);
          if (refusal) return callback(replyOf(refusal));
          keep(mail);
          callback();
        })
        .catch((error: Error) => callback(error));
    },
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, '127.0.0.1', () => resolve());
  });
  // A client that vanishes in the middle of a command is its own affair.
  server.on('error', () => undefined);
  const { port } = server.server.address() as AddressInfo;
  return {
    port,
    url: `smtp://127.0.0.1:${port}`,
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

async function receive(
  stream: SMTPServerDataStream,
  session: SMTPServerSession,
): Promise<Omit<CaughtMail, 'file'>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  // What is too long is read to its end, because only then the client listens to the refusal.
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes <= mailBytesMax) chunks.push(chunk);
  }
  if (bytes > mailBytesMax) throw replyOf({ code: 552, message: 'the mail is too long' });
  const recipients = session.envelope.rcptTo.map(({ address }) => address);
  return { recipients, text: Buffer.concat(chunks).toString('utf8') };
}

function replyOf({ code, message }: MailRefusal): Error {
  return Object.assign(new Error(message), { responseCode: code });
}

/** Sorts by time; the message id is cut down to what any file system takes. */
function fileName(text: string, count: number): string {
  const [, id = 'no-message-id'] = /^message-id:\s*<?([^>\r\n]+)/im.exec(text) ?? [];
  const time = new Date().toISOString().replaceAll(/[-:]/g, '');
  const safeId = id.replaceAll(/[^\w.@-]/g, '_').slice(0, 100);
  return `${time}-${String(count).padStart(5, '0')}-${safeId}.eml`;
}
