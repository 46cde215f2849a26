import { connect, type Socket } from 'node:net';

/** The answer to one request, as far as the load looks at it. */
export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
}

type OnAnswer = (answer: HttpAnswer | Error) => void;

/**
 * One keep-alive connection with one request at a time. A plain socket and a few string searches
 * instead of an HTTP client: the load shares the machine with what it measures.
 */
export class HttpConnection {
  readonly #socket: Socket;
  readonly #onIdle: (connection: HttpConnection) => void;
  #received = '';
  #onAnswer: OnAnswer | undefined;
  #sentMs = 0;
  closed = false;

  constructor(
    { host, port }: { host: string; port: number },
    onIdle: (connection: HttpConnection) => void,
    onClose: (connection: HttpConnection) => void,
  ) {
    this.#onIdle = onIdle;
    this.#socket = connect({ host, port, noDelay: true });
    this.#socket.setEncoding('latin1');
    this.#socket.on('connect', () => onIdle(this));
    this.#socket.on('data', (chunk: string) => this.#read(chunk));
    this.#socket.on('error', () => {});
    this.#socket.on('close', () => {
      this.closed = true;
      this.#answer(new Error('connection lost'));
      onClose(this);
    });
  }

  /** When the request under way was sent; undefined while none is. */
  get busySinceMs(): number | undefined {
    return this.#onAnswer ? this.#sentMs : undefined;
  }

  send(request: string, onAnswer: OnAnswer): void {
    this.#onAnswer = onAnswer;
    this.#sentMs = performance.now();
    this.#socket.write(request, 'latin1');
  }

  /** Cuts the connection; a request under way gets an error. */
  destroy(): void {
    this.#socket.destroy();
  }

  #read(chunk: string): void {
    this.#received = this.#received === '' ? chunk : this.#received + chunk;
    const headEnd = this.#received.indexOf('\r\n\r\n');
    if (headEnd < 0) return;
    const head = this.#received.slice(0, headEnd).toLowerCase();
    const length = /\r\ncontent-length: *(\d+)/.exec(head)?.[1];
    if (length === undefined) {
      this.destroy();
      return;
    }
    const bodyStart = headEnd + 4;
    if (this.#received.length < bodyStart + Number(length)) return;
    const body = this.#received.slice(bodyStart);
    this.#received = '';
    const closes = head.includes('\r\nconnection: close');
    this.#answer({ status: Number(head.slice(9, 12)), body });
    if (closes) this.destroy();
    else this.#onIdle(this);
  }

  #answer(answer: HttpAnswer | Error): void {
    const onAnswer = this.#onAnswer;
    this.#onAnswer = undefined;
    onAnswer?.(answer);
  }
}
