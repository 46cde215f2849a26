import http2 from 'node:http2';
import type { Socket } from 'node:net';
import { NeverSent, TurnedAway } from './never-sent.ts';

/** The name of a call, on its way from our client to the HTTP/2 stream; it never leaves this process. */
export const callFateHeader = 'x-call-fate';

const { NGHTTP2_REFUSED_STREAM } = http2.constants;
/** The type of the frame that begins a request. */
const headersFrame = 1;

/** What became of one attempt to make a call. grpc-js tells UNAVAILABLE, whatever it was. */
export interface CallFate {
  /** To be sent as the metadata `callFateHeader`. */
  readonly id: string;
  /**
   * What to throw where the peer surely never began it: it was never sent, or it was refused by a GOAWAY
   * or a reset. Undefined if it may have begun.
   */
  refusal(cause: unknown): NeverSent | undefined;
  /** To be called when the attempt is over. */
  forget(): void;
}

/** The streams that were begun for each attempt that is under way, one as a rule. */
const attempts = new Map<string, http2.ClientHttp2Stream[]>();
/** Streams whose request was never sent, because a GOAWAY came before it had left. */
const unsent = new WeakSet<http2.ClientHttp2Stream>();
let lastId = 0;

/** The fate of a call that is about to be made. */
export function newCallFate(): CallFate {
  lastId += 1;
  const id = String(lastId);
  const streams: http2.ClientHttp2Stream[] = [];
  attempts.set(id, streams);
  return {
    id,
    refusal(cause) {
      if (streams.length === 0) {
        return new NeverSent('DEPENDENCY_DOWN', 'The connection was lost before', { cause });
      }
      if (!streams.every(isUntouched)) return undefined;
      return new TurnedAway('DEPENDENCY_DOWN', 'The peer did not begin the call', { cause });
    },
    forget: () => attempts.delete(id),
  };
}

function isUntouched(stream: http2.ClientHttp2Stream): boolean {
  const { id, rstCode } = stream;
  return id === undefined || rstCode === NGHTTP2_REFUSED_STREAM || unsent.has(stream);
}

/** Told of every session that grpc-js opens, with its socket. */
export type OnSession = (session: http2.ClientHttp2Session, socket: Socket) => void;

let watched = false;

/**
 * Watches the HTTP/2 sessions that grpc-js opens from now on, once for the process: its API shows
 * neither them nor their streams.
 */
export function watchSessions(onSession: OnSession): void {
  if (watched) return;
  watched = true;
  const { connect } = http2;
  http2.connect = ((authority: string, options: http2.ClientSessionOptions, ...rest: []) => {
    let socket: Socket | undefined;
    const createConnection: typeof options.createConnection = (...given) => {
      const duplex = options.createConnection?.(...given);
      socket = duplex as Socket;
      return socket;
    };
    const session = connect(authority, { ...options, createConnection }, ...rest);
    followRequests(session);
    if (socket) onSession(session, socket);
    return session;
  }) as typeof connect;
}

function followRequests(session: http2.ClientHttp2Session): void {
  const { request } = session;
  session.request = (headers = {}, options) => {
    const named = headers as http2.OutgoingHttpHeaders;
    const streams = attempts.get(String(named[callFateHeader]));
    delete named[callFateHeader];
    const stream = request.call(session, headers, options);
    if (streams === undefined) return stream;
    streams.push(stream);
    stream.once('frameError', (type) => {
      if (type === headersFrame) unsent.add(stream);
    });
    stream.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ERR_HTTP2_GOAWAY_SESSION') unsent.add(stream);
    });
    return stream;
  };
}
