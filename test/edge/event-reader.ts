/** One server-sent event, its fields by their names. */
export interface StreamEvent {
  readonly event: string;
  readonly id?: string;
  readonly data: string;
}

/** A stream that is being read, as a browser's fetch does. */
export class EventReader {
  readonly response: Response;
  readonly #abort: AbortController;
  readonly #body: ReadableStreamDefaultReader<Uint8Array>;
  #text = '';

  private constructor(response: Response, abort: AbortController) {
    this.response = response;
    this.#abort = abort;
    this.#body = (response.body as ReadableStream<Uint8Array>).getReader();
  }

  static async open(url: string, headers: Record<string, string>): Promise<EventReader> {
    const abort = new AbortController();
    const response = await fetch(url, { headers, signal: abort.signal });
    return new EventReader(response, abort);
  }

  /** The next event or comment as it was sent; undefined at the end of the stream. */
  async block(): Promise<string | undefined> {
    for (;;) {
      const end = this.#text.indexOf('\n\n');
      if (end >= 0) {
        const block = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 2);
        return block;
      }
      const { done, value } = await this.#body.read();
      if (done) return undefined;
      this.#text += Buffer.from(value).toString();
    }
  }

  /** The next event, comments passed over; undefined at the end of the stream. */
  async next(): Promise<StreamEvent | undefined> {
    for (;;) {
      const block = await this.block();
      if (block === undefined) return undefined;
      if (block.startsWith(':')) continue;
      const fields = block.split('\n').map((line) => line.split(/: (.*)/s).slice(0, 2));
      return Object.fromEntries(fields) as StreamEvent;
    }
  }

  leave(): void {
    this.#abort.abort();
  }
}
