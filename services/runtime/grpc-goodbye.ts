import { writeSync } from 'node:fs';
import type { ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';

/** How long a peer may take to notice that it should go elsewhere, in milliseconds. */
const noticeMs = 1_000;
/** How soon a connection that is in the middle of a write is tried again, in milliseconds. */
const againMs = 5;

/** GOAWAY with the greatest stream id: connect elsewhere, and what is on its way to us is still served. */
const shutdownNotice = Buffer.from([
  ...[0, 0, 8, 7, 0, 0, 0, 0, 0],
  ...[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0],
]);

/**
 * Ends a connection without losing a call. The peer is told to go elsewhere; once it has confirmed a ping
 * that came behind that, nothing new is on its way, and the connection is closed behind the calls under
 * way. A peer that confirms nothing for a second has what it sends later refused, not begun.
 *
 * @returns when nothing new comes any more
 */
export function sayGoodbye(session: ServerHttp2Session, socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    let retry: NodeJS.Timeout | undefined;
    const end = (): void => {
      clearTimeout(timer);
      clearTimeout(retry);
      if (!session.destroyed) session.close();
      resolve();
    };
    // Not in the middle of what the peer has sent.
    const done = (): void => void setImmediate(end);
    const timer = setTimeout(done, noticeMs);
    session.once('close', done);
    const tell = (): void => {
      const isOver = session.destroyed || session.closed;
      // What goes over an encrypted connection is not ours to write.
      const told = isOver || session.encrypted ? 'gone' : giveNotice(socket);
      if (told === 'busy') retry = setTimeout(tell, againMs);
      else if (told === 'gone' || !session.ping(done)) done();
    };
    tell();
  });
}

/** What node shows of the handle of a connection, besides its own use. */
interface Handle {
  readonly fd?: number;
  readonly writeQueueSize?: number;
}

/**
 * Writes the notice behind all that was written before, and not between the parts of it. It goes around
 * the session, because the library behind node ignores what comes after any GOAWAY of its own, and around
 * the socket, whose writes are the session's: one that has to wait would end the process.
 */
function giveNotice(socket: Socket): 'told' | 'busy' | 'gone' {
  const handle = (socket as Socket & { readonly _handle?: Handle | null })._handle;
  const { fd = -1, writeQueueSize = 0 } = handle ?? {};
  if (fd < 0) return 'gone';
  if (writeQueueSize > 0) return 'busy';
  try {
    if (writeSync(fd, shutdownNotice) === shutdownNotice.length) return 'told';
    // Half a frame is behind us: nothing that follows could be understood.
    socket.destroy();
    return 'gone';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EAGAIN' ? 'busy' : 'gone';
  }
}
