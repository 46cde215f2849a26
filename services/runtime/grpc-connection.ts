import type { ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import type { Place, PlaceReason } from './connection-places.ts';
import type { GuardedStream } from './grpc-guarded-stream.ts';
import type { GrpcLimits, SideService } from './grpc-limits.ts';

/** A peer is asked for a sign of life this often, in milliseconds … */
const pingEveryMs = 10_000;
/** … and let go if it gives none for so long. */
const pongWithinMs = 3_000;
/** Who connects says first which settings it has. */
const greetingMs = 4_000;
/** What a peer may take to close its side, once ours is closed. */
const lingerMs = 3_000;
/** What calls under way may take once the peer was told to go elsewhere. */
const leaveMs = 30_000;

/** Why a connection or a stream was refused or closed before its time. */
export type CloseReason =
  | PlaceReason
  | SideService
  | 'streams'
  | 'slow_request'
  | 'answer_not_taken'
  | 'memory'
  | 'no_greeting'
  | 'silent'
  | 'lingering';

/** One connection of a gRPC server. */
export class GrpcConnection {
  readonly socket: Socket;
  readonly place: Place;
  readonly streams = new Set<GuardedStream>();
  readonly sideStreams: Record<SideService, number> = { reflection: 0, health: 0 };
  session: ServerHttp2Session | undefined;
  /** Whether its peer was told to go elsewhere. */
  leaving = false;
  /** Bytes that were held for it at the last look. */
  bytes = 0;
  readonly #openedMs: number;
  readonly #ageMaxMs: number;
  readonly #bytesMax: number;
  #greeted = false;
  /** When the peer was last heard, or asked. */
  #sinceMs: number;
  #asked = false;
  #endedMs: number | undefined;
  #leavingMs: number | undefined;

  constructor(socket: Socket, place: Place, nowMs: number, limits: GrpcLimits) {
    this.socket = socket;
    this.place = place;
    this.#openedMs = nowMs;
    this.#sinceMs = nowMs;
    this.#bytesMax = limits.bytesPerConnectionMax;
    // So that those who came together do not all go together.
    this.#ageMaxMs = limits.ageMaxMs * (0.9 + 0.2 * Math.random());
  }

  began(session: ServerHttp2Session): void {
    this.session = session;
    session.once('remoteSettings', () => {
      this.#greeted = true;
    });
  }

  /** Whether it should be renewed. */
  isOld(nowMs: number): boolean {
    return !this.leaving && nowMs - this.#openedMs >= this.#ageMaxMs;
  }

  /** Looks after it. @returns why it must be closed, if it must */
  look(nowMs: number): CloseReason | undefined {
    const { session, streams } = this;
    this.bytes = 0;
    for (const guarded of streams) this.bytes += guarded.bytes;
    if (session === undefined || session.destroyed) {
      this.#endedMs ??= nowMs;
      return nowMs - this.#endedMs >= lingerMs ? 'lingering' : undefined;
    }
    if (!this.#greeted && nowMs - this.#openedMs >= greetingMs) return 'no_greeting';
    if (this.bytes > this.#bytesMax) return 'memory';
    if (this.leaving) {
      this.#leavingMs ??= nowMs;
      if (nowMs - this.#leavingMs >= leaveMs) return 'lingering';
    }
    return this.#listen(session, nowMs);
  }

  #listen(session: ServerHttp2Session, nowMs: number): 'silent' | undefined {
    const silentMs = nowMs - this.#sinceMs;
    if (this.#asked) return silentMs >= pongWithinMs ? 'silent' : undefined;
    if (silentMs < pingEveryMs) return undefined;
    this.#asked = true;
    this.#sinceMs = nowMs;
    const sent = session.ping((error) => {
      if (!error) this.#asked = false;
    });
    return sent ? undefined : 'silent';
  }
}
