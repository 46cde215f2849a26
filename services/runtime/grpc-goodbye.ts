import type { ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';

/** How long a peer may take to notice that it should go elsewhere, in milliseconds. */
const noticeMs = 1_000;

/**
 * GOAWAY with the greatest stream id: connect elsewhere, and what is on its way to us is still served.
 * Written by hand, because the library behind node ignores all that comes after any GOAWAY of its own.
 */
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
    const done = (): void => {
      clearTimeout(timer);
      if (!session.destroyed) session.close();
      resolve();
    };
    const timer = setTimeout(done, noticeMs);
    session.once('close', done);
    if (session.destroyed || session.closed || socket.destroyed) {
      done();
      return;
    }
    socket.write(shutdownNotice);
    if (!session.ping(done)) done();
  });
}
