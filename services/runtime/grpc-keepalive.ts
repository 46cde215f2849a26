import type { ClientHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import { AwakeClock } from './awake-clock.ts';

/** A connection is asked for a sign of life this often, in milliseconds … */
const pingEveryMs = 2_000;
/** … and is given up if there is none for so long. */
const pongWithinMs = 1_500;
/** What is left of a connection that has been closed on our side. */
const closeWithinMs = 2_000;
const lookEveryMs = 250;

interface Watched {
  readonly socket: Socket;
  /** When the peer last gave a sign of life, or was asked for one. */
  sinceMs: number;
  asked: boolean;
}

/**
 * Gives up connections whose peer is frozen, cut off or gone without a word, at most 4 s after it fell
 * silent. Unlike the keepalive of grpc-js it counts no time in which this process itself stood still:
 * an answer that waits to be read would come too late for it. Servers send their own pings.
 */
export function createKeepalive(): (session: ClientHttp2Session, socket: Socket) => void {
  const watched = new Map<ClientHttp2Session, Watched>();
  const clock = new AwakeClock(lookEveryMs);
  let timer: NodeJS.Timeout | undefined;

  function look(): void {
    const nowMs = clock.tick();
    for (const [session, peer] of watched) {
      const silentMs = nowMs - peer.sinceMs;
      if (session.destroyed) {
        if (silentMs >= pingEveryMs + closeWithinMs) peer.socket.destroy();
      } else if (peer.asked) {
        // Not the session, which would wait until its last words are sent.
        if (silentMs >= pongWithinMs) peer.socket.destroy();
      } else if (silentMs >= pingEveryMs) {
        ask(session, peer, nowMs);
      }
    }
  }

  function ask(session: ClientHttp2Session, peer: Watched, nowMs: number): void {
    peer.asked = true;
    peer.sinceMs = nowMs;
    const sent = session.ping((error) => {
      if (error) return;
      peer.asked = false;
      peer.sinceMs = clock.now();
    });
    if (!sent) peer.socket.destroy();
  }

  return (session, socket) => {
    // From the first settings on; before, the attempt to connect has a time of its own.
    session.once('remoteSettings', () => {
      watched.set(session, { socket, sinceMs: clock.now(), asked: false });
      timer ??= setInterval(look, lookEveryMs).unref();
    });
    socket.once('close', () => {
      watched.delete(session);
      if (watched.size > 0) return;
      clearInterval(timer);
      timer = undefined;
    });
  };
}
