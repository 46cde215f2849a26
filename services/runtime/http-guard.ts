import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { AwakeClock } from './awake-clock.ts';
import { ConnectionPlaces, type ConnectionPlacesOptions, type Place } from './connection-places.ts';

/** How often the connections are looked through. */
const lookEveryMs = 250;
/** A request must have arrived whole by then, in milliseconds after it began. */
const requestMs = 4_000;
/** Its answer must have been taken by then, in milliseconds after the request began … */
const takenMs = 4_500;
/** … or this long after it was given, if that took us so long. */
const takenAfterAnswerMs = 500;
/** The last resort against a handler that never answers; every route has a shorter budget of its own. */
const answerMs = 10_000;
/** Clients that send many requests without waiting have some dozens under way; the next one ends the connection. */
const unansweredMaxDefault = 32;
/** What all answers together that nobody takes may hold in memory. */
const unsentBytesMaxDefault = 64 * 1_024 * 1_024;

/** Why a connection was closed before its time. */
export type HttpCloseReason =
  | 'address_full'
  | 'full'
  | 'slow_request'
  | 'pipelining'
  | 'answer_not_taken'
  | 'unanswered'
  | 'memory';

export interface HttpGuardOptions extends ConnectionPlacesOptions {
  /** Requests of one connection that are not answered yet, at most. Default 32. */
  readonly unansweredMax?: number;
  /** Bytes of answers that wait for all clients together, at most. Default 64 MiB. */
  readonly unsentBytesMax?: number;
  /** Told for each connection that is closed before its time. */
  readonly onClosed?: (reason: HttpCloseReason) => void;
}

interface Connection {
  readonly socket: Socket;
  readonly place: Place;
  /** When the request that is under way or is arriving began. */
  beganMs: number;
  /** Bytes that had been read when the last answer was done: more of them begin a request. */
  bytesSeen: number;
  /** Answers that are not done, in their order. */
  readonly open: ServerResponse[];
  /** When the first of them was seen to be given, though not taken. */
  givenMs: number | undefined;
  /** A request that was answered before all of it had come. */
  rest: IncomingMessage | undefined;
  timedOut: boolean;
}

const longLived = new WeakSet<ServerResponse>();

/** Says that an answer goes on for long and looks after its reader itself, as a stream of events does. */
export function keepOpen(response: ServerResponse): void {
  longLived.add(response);
}

/**
 * Keeps each connection of a server in its bounds, whatever its client does: five seconds after a request
 * began its place is free unless we are still at work for it, and so many connections, requests of one
 * connection and bytes that nobody takes there are and no more. It works as long as the server does.
 */
export class HttpGuard {
  readonly #server: Server;
  readonly #options: HttpGuardOptions;
  readonly #places: ConnectionPlaces;
  readonly #connections = new Map<Socket, Connection>();
  readonly #clock = new AwakeClock(lookEveryMs);

  /** @param server not listening yet; its listeners of requests are called for what is let in */
  constructor(server: Server, options: HttpGuardOptions) {
    this.#server = server;
    this.#options = options;
    this.#places = new ConnectionPlaces(options);
    const handlers = server.listeners('request');
    server.removeAllListeners('request');
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      if (!this.#letIn(request, response)) return;
      for (const handle of handlers) handle.call(server, request, response);
    });
    server.on('connection', (socket: Socket) => this.#connected(socket));
    // The guard's own clock comes first; node's would blame clients for a pause of this process.
    server.headersTimeout = 2 * requestMs;
    server.requestTimeout = 2 * requestMs;
    let timer: NodeJS.Timeout | undefined;
    server.once('listening', () => {
      timer = setInterval(() => this.#look(), lookEveryMs);
    });
    server.once('close', () => clearInterval(timer));
  }

  /** Connections that are open. */
  get connections(): number {
    return this.#connections.size;
  }

  #connected(socket: Socket): void {
    const close = (reason: HttpCloseReason): void => this.#close(socket, reason);
    const place = this.#places.take(socket.remoteAddress ?? '', close);
    if (typeof place === 'string') {
      close(place);
      return;
    }
    this.#connections.set(socket, {
      socket,
      place,
      beganMs: this.#clock.now(),
      bytesSeen: 0,
      open: [],
      givenMs: undefined,
      rest: undefined,
      timedOut: false,
    });
    socket.once('close', () => {
      this.#connections.delete(socket);
      this.#places.leave(place);
    });
  }

  #letIn(request: IncomingMessage, response: ServerResponse): boolean {
    const { socket } = request;
    const connection = this.#connections.get(socket);
    // What is parsed behind the end of a connection: nobody is there to be answered.
    if (connection === undefined || socket.destroyed || socket.writableEnded) return false;
    const { open, place } = connection;
    if (open.length >= (this.#options.unansweredMax ?? unansweredMaxDefault)) {
      this.#close(socket, 'pipelining');
      return false;
    }
    if (open.length === 0) {
      if (place.state === 'idle') connection.beganMs = this.#clock.now();
      this.#places.move(place, 'busy');
    }
    open.push(response);
    response.once('close', () => this.#answered(connection, request, response));
    return true;
  }

  #answered(connection: Connection, request: IncomingMessage, response: ServerResponse): void {
    const { open } = connection;
    open.splice(open.indexOf(response), 1);
    connection.givenMs = undefined;
    if (open.length > 0) {
      connection.beganMs = this.#clock.now();
    } else if (request.complete) {
      this.#rest(connection);
    } else {
      connection.rest = request;
      this.#places.move(connection.place, 'unfinished');
    }
  }

  #rest(connection: Connection): void {
    connection.rest = undefined;
    connection.bytesSeen = connection.socket.bytesRead;
    this.#places.move(connection.place, 'idle');
  }

  #look(): void {
    const nowMs = this.#clock.tick();
    let unsentBytes = 0;
    for (const connection of this.#connections.values()) {
      unsentBytes += unsentBytesOf(connection);
      const { state } = connection.place;
      if (state === 'busy') this.#lookAtBusy(connection, nowMs);
      else if (state === 'unfinished') this.#lookAtUnfinished(connection, nowMs);
      else if (connection.socket.bytesRead !== connection.bytesSeen) {
        connection.beganMs = nowMs;
        this.#places.move(connection.place, 'unfinished');
      }
    }
    const { unsentBytesMax = unsentBytesMaxDefault } = this.#options;
    if (unsentBytes > unsentBytesMax) this.#freeMemory(unsentBytes - unsentBytesMax);
  }

  #lookAtUnfinished(connection: Connection, nowMs: number): void {
    const { rest, socket, beganMs } = connection;
    if (rest?.complete) this.#rest(connection);
    else if (nowMs - beganMs >= requestMs) {
      // What was answered already is not answered again.
      if (rest === undefined) this.#timeOut(connection);
      else this.#close(socket, 'slow_request');
    }
  }

  #lookAtBusy(connection: Connection, nowMs: number): void {
    const [oldest] = connection.open;
    if (oldest === undefined || longLived.has(oldest)) return;
    const { socket, beganMs } = connection;
    const ageMs = nowMs - beganMs;
    if (oldest.writableEnded) {
      connection.givenMs ??= nowMs;
      const untilMs = Math.max(beganMs + takenMs, connection.givenMs + takenAfterAnswerMs);
      if (nowMs >= untilMs) this.#close(socket, 'answer_not_taken');
    } else if (ageMs >= requestMs && !oldest.req.complete) {
      this.#timeOut(connection);
    } else if (ageMs >= answerMs) {
      this.#close(socket, 'unanswered');
    }
  }

  /** Has the server say 408 and close, as it does for whatever it cannot understand. */
  #timeOut(connection: Connection): void {
    if (connection.timedOut) return;
    connection.timedOut = true;
    this.#options.onClosed?.('slow_request');
    const error = Object.assign(new Error('Request timeout'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });
    const { socket } = connection;
    if (!this.#server.emit('clientError', error, socket)) socket.destroy();
  }

  /** Closes the connections that hold the most, until so many bytes are free. */
  #freeMemory(bytes: number): void {
    const held = [...this.#connections.values()].map((connection) => ({
      socket: connection.socket,
      bytes: unsentBytesOf(connection),
    }));
    held.sort((a, b) => b.bytes - a.bytes);
    let left = bytes;
    for (const { socket, bytes: own } of held) {
      if (left <= 0) return;
      left -= own;
      this.#close(socket, 'memory');
    }
  }

  #close(socket: Socket, reason: HttpCloseReason): void {
    this.#options.onClosed?.(reason);
    socket.destroy();
  }
}

/** What waits in the socket, and the answers that wait for those before them to be taken. */
function unsentBytesOf({ socket, open }: Connection): number {
  let bytes = socket.writableLength;
  for (const response of open) if (response.socket === null) bytes += response.writableLength;
  return bytes;
}
