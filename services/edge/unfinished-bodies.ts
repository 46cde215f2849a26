import type { IncomingMessage } from 'node:http';
import { Refusal } from '../runtime/refusals.ts';
import { HttpFault } from './problem.ts';

export interface UnfinishedBodiesOptions {
  /** Bytes of one body at most. */
  readonly bodyBytesMax: number;
  /** Bytes of all bodies together that have not arrived whole, at most. */
  readonly bytesMax: number;
}

interface Unfinished {
  bytes: number;
  readonly giveUp: () => void;
}

/**
 * Reads bodies of senders whom nobody has looked at yet, in bounded memory. Where that is full, the body
 * that has been arriving for longest is given up: whoever sends at once is done long before. How long
 * one may take at all is the server's business.
 */
export class UnfinishedBodies {
  readonly #options: UnfinishedBodiesOptions;
  /** The oldest first. */
  readonly #unfinished = new Set<Unfinished>();
  #bytes = 0;

  constructor(options: UnfinishedBodiesOptions) {
    this.#options = options;
  }

  /** Bytes of bodies that have not arrived whole. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * The body of a request, when all of it is there.
   *
   * @throws HttpFault BODY_TOO_LARGE; MALFORMED_HTTP if the sender goes away before its end
   * @throws Refusal OVERLOADED if it had to make room for others
   */
  read(request: IncomingMessage): Promise<Buffer> {
    const { bodyBytesMax } = this.#options;
    return new Promise((resolve, reject) => {
      if (Number(request.headers['content-length'] ?? 0) > bodyBytesMax) {
        reject(new HttpFault('BODY_TOO_LARGE'));
        return;
      }
      const chunks: Buffer[] = [];
      const fail = (error: Error): void => {
        stop();
        // Whatever still comes is thrown away, until the server has had enough of it.
        request.resume();
        reject(error);
      };
      const body: Unfinished = { bytes: 0, giveUp: () => fail(new Refusal('OVERLOADED')) };
      const onData = (chunk: Buffer): void => {
        chunks.push(chunk);
        this.#add(body, chunk.length);
        if (body.bytes > bodyBytesMax) fail(new HttpFault('BODY_TOO_LARGE'));
      };
      const onEnd = (): void => {
        stop();
        resolve(Buffer.concat(chunks));
      };
      const onClose = (): void => fail(new HttpFault('MALFORMED_HTTP', 'The body has no end'));
      const stop = (): void => {
        if (this.#unfinished.delete(body)) this.#bytes -= body.bytes;
        request.off('data', onData).off('end', onEnd).off('close', onClose);
      };
      this.#unfinished.add(body);
      request.on('data', onData).on('end', onEnd).on('close', onClose);
    });
  }

  #add(body: Unfinished, bytes: number): void {
    body.bytes += bytes;
    this.#bytes += bytes;
    while (this.#bytes > this.#options.bytesMax) {
      const [oldest] = this.#unfinished;
      if (oldest === undefined) return;
      oldest.giveUp();
    }
  }
}
