import { connect, type Socket } from 'node:net';

/** Sockets of somebody who keeps to no rule; they read nothing unless they are told to. */
export interface HostileSockets {
  readonly all: readonly Socket[];
  /** Sends a byte on each of them. */
  dribble(byte: string): void;
  destroy(): void;
}

export interface HostileOptions {
  readonly port: number;
  readonly count: number;
  /** What each sends first. */
  readonly begin: string | Buffer;
  /** Whether it closes its own side behind that. */
  readonly halfClose?: boolean;
  /** Whether it reads what is answered, and throws it away. Default true. */
  readonly reads?: boolean;
}

/** Opens the sockets; when the server closes its side, they stay as they are. */
export async function openHostile(options: HostileOptions): Promise<HostileSockets> {
  const { port, count, begin, halfClose = false, reads = true } = options;
  const all: Socket[] = [];
  const opened: Promise<void>[] = [];
  for (let index = 0; index < count; index += 1) {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => {});
    if (reads) socket.resume();
    else socket.pause();
    all.push(socket);
    opened.push(
      new Promise((resolve) => {
        socket.once('close', () => resolve());
        socket.once('connect', () => {
          if (halfClose) socket.end(begin);
          else socket.write(begin);
          resolve();
        });
      }),
    );
    // Not all at once, which the machine itself would refuse.
    if (index % 200 === 199) await Promise.all(opened);
  }
  await Promise.all(opened);
  return {
    all,
    dribble(byte) {
      for (const socket of all) if (socket.writable) socket.write(byte);
    },
    destroy() {
      for (const socket of all) socket.destroy();
    },
  };
}
