import type { Socket } from 'node:net';

/** How long a peer that was told to go may take to read it and to close its side. */
const lingerMs = 500;

/**
 * Sends the last words of a connection and closes it: at once if the peer closes its side, else after
 * half a second, whatever it sends or does not read. Nothing that comes is read as a request any more.
 */
export function endSoon(socket: Socket, lastWords: string): void {
  // The listener of an HTTP server would go on to answer what it reads.
  socket.removeAllListeners('data');
  socket.on('data', () => {});
  socket.resume();
  socket.end(lastWords);
  const timer = setTimeout(() => socket.destroy(), lingerMs);
  socket.once('close', () => clearTimeout(timer));
}
