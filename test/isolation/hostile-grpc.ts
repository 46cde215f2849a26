import { type ClientHttp2Session, connect } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';

/** Streams that are opened at once, and the pause behind them. */
const sliceStreams = 25;
const sliceMs = 5;

/** Somebody who opens streams of gRPC on one connection and keeps to no rule. */
export interface HostilePeer {
  readonly session: ClientHttp2Session;
  /** Streams that the server refused or reset, by the code of the reset. */
  readonly ended: ReadonlyMap<number, number>;
  /** Opens streams, each with these bytes; a stream that is not ended has an unfinished request. */
  open(path: string, count: number, bytes: Buffer, options?: { end?: boolean }): Promise<void>;
  destroy(): void;
}

/** Connects with a window of 0, unless told otherwise: nothing that is answered is taken, however long it waits. */
export async function connectHostile(port: number, initialWindowSize = 0): Promise<HostilePeer> {
  const session = connect(`http://127.0.0.1:${port}`, { settings: { initialWindowSize } });
  session.on('error', () => {});
  await new Promise<void>((resolve, reject) => {
    session.once('remoteSettings', () => resolve());
    session.once('close', () => reject(new Error('the server did not let us in')));
  });
  const ended = new Map<number, number>();
  return {
    session,
    ended,
    async open(path, count, bytes, { end = true } = {}) {
      for (let index = 0; index < count && !session.destroyed; index += 1) {
        // Whoever measures others in this process must not be kept from it.
        if (index % sliceStreams === 0) await sleep(sliceMs);
        const stream = session.request({
          ':method': 'POST',
          ':path': path,
          'content-type': 'application/grpc',
          te: 'trailers',
        });
        stream.on('error', () => {});
        stream.on('close', () => {
          const code = stream.rstCode ?? -1;
          ended.set(code, (ended.get(code) ?? 0) + 1);
        });
        if (end) stream.end(bytes);
        else stream.write(bytes);
      }
    },
    destroy: () => session.destroy(),
  };
}

/** A message of gRPC as it is sent. */
export function framed(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

export const reflectionPath = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';

/** A question of reflection whose answer has some dozens of kilobytes. */
export function askForDescriptor(symbol: string): Buffer {
  const text = Buffer.from(symbol);
  return framed(Buffer.concat([Buffer.from([0x22, text.length]), text]));
}
