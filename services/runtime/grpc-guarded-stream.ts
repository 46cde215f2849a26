import type { ServerHttp2Stream } from 'node:http2';
import type { GrpcLimits, SideService } from './grpc-limits.ts';

/** A stream that asks on for as long as it likes, such as reflection, is ended after so long. */
const openRequestMs = 60_000;

/** One stream of a gRPC server, and what it holds. */
export class GuardedStream {
  readonly stream: ServerHttp2Stream;
  readonly side: SideService | undefined;
  readonly #sinceMs: number;
  #arrivedBytes = 0;
  #whole = false;
  /** Bytes that waited for the peer at the last look. */
  #unsentBytes = 0;
  #stalledSinceMs: number | undefined;

  /** @param nowMs on the clock of the looks */
  constructor(stream: ServerHttp2Stream, side: SideService | undefined, nowMs: number) {
    this.stream = stream;
    this.side = side;
    this.#sinceMs = nowMs;
  }

  /** Begins to count what comes, behind the reader of the stream, whose flow it must not start. */
  follow(): void {
    this.stream.on('data', (chunk: Buffer) => {
      this.#arrivedBytes += chunk.length;
    });
    this.stream.once('end', () => {
      this.#whole = true;
    });
  }

  /** Bytes that are held for it: of a request that is not whole, and of answers that are not taken. */
  get bytes(): number {
    return (this.#whole ? 0 : this.#arrivedBytes) + this.stream.writableLength;
  }

  /** Looks how it goes on. @returns why it must end, if it must */
  look(nowMs: number, limits: GrpcLimits): 'slow_request' | 'answer_not_taken' | undefined {
    const unsentBytes = this.stream.writableLength;
    if (unsentBytes === 0 || unsentBytes < this.#unsentBytes) this.#stalledSinceMs = undefined;
    else this.#stalledSinceMs ??= nowMs;
    this.#unsentBytes = unsentBytes;
    const stalledMs = this.#stalledSinceMs === undefined ? 0 : nowMs - this.#stalledSinceMs;
    if (stalledMs >= limits.takenMs) return 'answer_not_taken';
    if (this.#whole) return undefined;
    const maxMs = this.side === 'reflection' ? openRequestMs : limits.requestMs;
    return nowMs - this.#sinceMs >= maxMs ? 'slow_request' : undefined;
  }
}
