import http2, {
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import { type Socket, Server as TcpServer } from 'node:net';
import { AwakeClock } from './awake-clock.ts';
import { ConnectionPlaces } from './connection-places.ts';
import { type CloseReason, GrpcConnection } from './grpc-connection.ts';
import { sayGoodbye } from './grpc-goodbye.ts';
import { GuardedStream } from './grpc-guarded-stream.ts';
import { type GrpcLimits, grpcLimits, type SideService, sideServiceOf } from './grpc-limits.ts';

const { NGHTTP2_CANCEL, NGHTTP2_REFUSED_STREAM } = http2.constants;
/** How often connections and streams are looked through, in milliseconds. */
const lookEveryMs = 250;

export interface GrpcGuardOptions {
  readonly limits?: Partial<GrpcLimits>;
  /** Told for each connection and stream that is refused or closed before its time. */
  readonly onClosed?: (what: 'connection' | 'stream', reason: CloseReason) => void;
  /** Told for each connection whose peer is asked to go elsewhere. */
  readonly onGoodbye?: (reason: 'age' | 'stop') => void;
}

/**
 * Keeps each peer of a gRPC server in its bounds, whatever it does: connections and streams are bounded
 * in number, what it sends slowly or does not take is bounded in time and in bytes, and who is silent is
 * let go. A stream beyond the bounds is refused before anything is begun for it.
 */
export class GrpcGuard {
  readonly #options: GrpcGuardOptions;
  readonly #limits: GrpcLimits;
  readonly #server: Http2Server;
  readonly #places: ConnectionPlaces;
  readonly #connections = new Map<Socket, GrpcConnection>();
  readonly #bySession = new WeakMap<object, GrpcConnection>();
  readonly #streamsOfPeer = new Map<string, number>();
  readonly #sideStreams: Record<SideService, number> = { reflection: 0, health: 0 };
  readonly #clock = new AwakeClock(lookEveryMs);
  readonly #timer: NodeJS.Timeout;
  #streams = 0;

  /** @param server not listening yet */
  constructor(server: Http2Server, options: GrpcGuardOptions = {}) {
    this.#server = server;
    this.#options = options;
    this.#limits = { ...grpcLimits, ...options.limits };
    const { connectionsMax, connectionsPerPeerMax } = this.#limits;
    this.#places = new ConnectionPlaces({ connectionsMax, perPeerMax: connectionsPerPeerMax });
    const { emit } = server;
    // A listener could not keep a connection or a stream from the other listeners.
    server.emit = ((event: string, ...given: unknown[]): boolean => {
      const pass = (): boolean => emit.call(server, event, ...(given as []));
      if (event === 'connection') return this.#connected(given[0] as Socket, pass);
      if (event !== 'stream') return pass();
      return this.#begun(given[0] as ServerHttp2Stream, given[1] as IncomingHttpHeaders, pass);
    }) as typeof emit;
    this.#timer = setInterval(() => this.#look(), lookEveryMs).unref();
  }

  /** Connections that are open. */
  get connections(): number {
    return this.#connections.size;
  }

  /** Streams that are open. */
  get streams(): number {
    return this.#streams;
  }

  /** Takes no connection any more, and resolves when nothing new comes on those that are open. */
  async goodbye(): Promise<void> {
    // Not the server's own close, which refuses what is on its way.
    TcpServer.prototype.close.call(this.#server);
    const all = [...this.#connections.values()];
    await Promise.all(all.map((connection) => this.#leave(connection, 'stop')));
    await outsideOfReads();
    // Whoever watches our health has been told, and would watch for ever.
    for (const { streams } of all) {
      for (const { side, stream } of streams) if (side !== undefined) stream.close(NGHTTP2_CANCEL);
    }
  }

  /** Ends the looks and every connection that is left. */
  stop(): void {
    clearInterval(this.#timer);
    for (const socket of this.#connections.keys()) socket.destroy();
  }

  #connected(socket: Socket, pass: () => boolean): boolean {
    const close = (reason: CloseReason): void => this.#close(socket, reason);
    const place = this.#places.take(socket.remoteAddress ?? '', close);
    if (typeof place === 'string') {
      close(place);
      return true;
    }
    const connection = new GrpcConnection(socket, place, this.#clock.now(), this.#limits);
    this.#connections.set(socket, connection);
    socket.once('close', () => {
      this.#connections.delete(socket);
      this.#places.leave(place);
    });
    // The session is made of the socket while the event is told.
    this.#server.once('session', (session: ServerHttp2Session) => {
      connection.began(session);
      this.#bySession.set(session, connection);
    });
    return pass();
  }

  #begun(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, pass: () => boolean): boolean {
    const connection = stream.session && this.#bySession.get(stream.session);
    if (connection === undefined) return pass();
    const side = sideServiceOf(headers[':path'] ?? '');
    const reason = this.#whyNot(connection, side);
    if (reason !== undefined) {
      this.#options.onClosed?.('stream', reason);
      stream.on('error', () => {});
      void outsideOfReads().then(() => stream.close(NGHTTP2_REFUSED_STREAM));
      return true;
    }
    const guarded = new GuardedStream(stream, side, this.#clock.now());
    this.#count(connection, guarded);
    const heard = pass();
    guarded.follow();
    return heard;
  }

  #whyNot(connection: GrpcConnection, side: SideService | undefined): CloseReason | undefined {
    const { place, streams, bytes } = connection;
    const limits = this.#limits;
    const ofPeer = this.#streamsOfPeer.get(place.peer) ?? 0;
    if (bytes >= limits.bytesPerConnectionMax) return 'memory';
    if (streams.size >= limits.streamsPerConnectionMax || ofPeer >= limits.streamsPerPeerMax) {
      return 'streams';
    }
    if (this.#streams >= limits.streamsMax) return 'streams';
    if (side === undefined) return undefined;
    const { perConnectionMax, max } = limits.sideStreams[side];
    const onConnection = connection.sideStreams[side];
    return onConnection >= perConnectionMax || this.#sideStreams[side] >= max ? side : undefined;
  }

  #count(connection: GrpcConnection, guarded: GuardedStream): void {
    const { place, streams } = connection;
    const { side } = guarded;
    const change = (by: 1 | -1): void => {
      const ofPeer = (this.#streamsOfPeer.get(place.peer) ?? 0) + by;
      if (ofPeer === 0) this.#streamsOfPeer.delete(place.peer);
      else this.#streamsOfPeer.set(place.peer, ofPeer);
      this.#streams += by;
      if (side !== undefined) {
        this.#sideStreams[side] += by;
        connection.sideStreams[side] += by;
      }
    };
    if (streams.size === 0) this.#places.move(place, 'busy');
    streams.add(guarded);
    change(1);
    guarded.stream.once('close', () => {
      streams.delete(guarded);
      change(-1);
      if (streams.size === 0) this.#places.move(place, 'idle');
    });
  }

  #look(): void {
    const nowMs = this.#clock.tick();
    let bytes = 0;
    for (const connection of this.#connections.values()) {
      this.#lookAtStreams(connection, nowMs);
      const reason = connection.look(nowMs);
      if (reason !== undefined) this.#close(connection.socket, reason);
      else if (connection.isOld(nowMs)) void this.#leave(connection, 'age');
      bytes += connection.bytes;
    }
    if (bytes > this.#limits.bytesMax) this.#freeMemory(bytes - this.#limits.bytesMax);
  }

  #lookAtStreams(connection: GrpcConnection, nowMs: number): void {
    for (const guarded of connection.streams) {
      const reason = guarded.look(nowMs, this.#limits);
      if (reason === undefined) continue;
      this.#options.onClosed?.('stream', reason);
      guarded.stream.close(NGHTTP2_CANCEL);
    }
  }

  /** Closes the connections that hold the most, until so many bytes are free. */
  #freeMemory(bytes: number): void {
    const all = [...this.#connections.values()].sort((a, b) => b.bytes - a.bytes);
    let left = bytes;
    for (const connection of all) {
      if (left <= 0) return;
      left -= connection.bytes;
      this.#close(connection.socket, 'memory');
    }
  }

  async #leave(connection: GrpcConnection, reason: 'age' | 'stop'): Promise<void> {
    const { session, socket } = connection;
    if (session === undefined || session.destroyed) return;
    connection.leaving = true;
    this.#options.onGoodbye?.(reason);
    await sayGoodbye(session, socket);
  }

  #close(socket: Socket, reason: CloseReason): void {
    this.#options.onClosed?.('connection', reason);
    socket.destroy();
  }
}

/**
 * Waits for a turn of the event loop in which node is not in the middle of what a peer has sent. A stream
 * that is closed there, of which trailers are to be sent, ends the process.
 */
function outsideOfReads(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
