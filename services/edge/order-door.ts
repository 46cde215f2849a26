import type { IncomingMessage, ServerResponse } from 'node:http';
import { Admission, type AdmissionOptions, weightOf } from '../runtime/admission.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { Refusal, refusalTable } from '../runtime/refusals.ts';
import { problemOf } from './problem.ts';

/** What most orders should take here, more than at the order service, whose door is behind this one. */
const targetMs = 150;
/** `few`: on a machine so slow that each takes longer in any case, so many are let in all the same. */
const bounds = { startLimit: 1_000, few: 400, limitMin: 30, limitMax: 10_000 };

/**
 * The outermost door of orders. While as many are under way as are made in time, a request for one more
 * is answered 503 as soon as its head is there: before its token is verified, its body read, or anything
 * else is done for it, so that the excess takes as little as possible from the orders that are made.
 */
export class OrderDoor {
  readonly #admission: Admission;
  readonly #refused: { inc(): void };
  /** The answer but for its end, which names the occurrence. */
  readonly #answer: { readonly status: number; readonly head: string[]; readonly text: string };

  /**
   * @param headers of every answer of the server
   * @param limits what a test sets differently
   */
  constructor(
    metrics: Metrics,
    headers: Readonly<Record<string, string>>,
    limits: Partial<AdmissionOptions> = {},
  ) {
    const limit = metrics.gauge(
      'edge_order_admission_limit',
      'Orders that may be under way at once; follows what they take',
    );
    const underWay = metrics.gauge('edge_orders_under_way', 'Orders that are being created');
    this.#refused = metrics.counter(
      'edge_orders_refused_at_door_total',
      'Requests for an order that were refused because too many were under way',
    );
    this.#admission = new Admission({ targetMs, ...bounds, ...limits });
    Object.assign(limit, { collect: () => limit.set(this.#admission.limit) });
    Object.assign(underWay, { collect: () => underWay.set(this.#admission.underWay) });
    const problem = problemOf(new Refusal('OVERLOADED'), instanceMark);
    this.#answer = {
      status: problem.status,
      head: Object.entries({ ...headers, ...problem.headers }).flat(),
      text: problem.body,
    };
  }

  /** Refuses a request for an order while the door is full. @returns whether it has answered */
  turnAway(request: IncomingMessage, response: ServerResponse, instance: () => string): boolean {
    if (request.url !== '/v1/orders' || request.method !== 'POST') return false;
    if (!this.#admission.refuses(1)) return false;
    this.#refused.inc();
    const { status, head, text } = this.#answer;
    const body = text.replace(instanceMark, instance());
    response.writeHead(status, [...head, 'content-length', String(body.length)]).end(body);
    return true;
  }

  /**
   * Makes an order if there is room. Its place is taken only now that the request is there wholly and
   * its sender is known: otherwise anybody could hold places with requests that never end.
   *
   * @param lines of the order; one of many has to find room in the share of the large ones
   * @throws Refusal OVERLOADED, and what `make` throws
   */
  async enter<Made>(lines: number, make: () => Promise<Made>): Promise<Made> {
    const weight = weightOf(lines);
    try {
      if (weight === 1) this.#admission.enter(1);
      else this.#admission.enterLarge(weight);
    } catch (refusal) {
      this.#refused.inc();
      throw refusal;
    }
    return await (weight === 1 ? this.#makeOrdinary(make) : this.#makeLarge(weight, make));
  }

  async #makeOrdinary<Made>(make: () => Promise<Made>): Promise<Made> {
    const sinceMs = performance.now();
    try {
      const made = await make();
      this.#admission.leave(performance.now() - sinceMs);
      return made;
    } catch (error) {
      // A refusal of the business is quick, whatever the load.
      if (error instanceof Refusal && refusalTable[error.reason].business) {
        this.#admission.leave(undefined);
      } else this.#admission.lose();
      throw error;
    }
  }

  async #makeLarge<Made>(weight: number, make: () => Promise<Made>): Promise<Made> {
    try {
      return await make();
    } finally {
      this.#admission.leaveLarge(weight);
    }
  }
}

const instanceMark = '<instance>';
