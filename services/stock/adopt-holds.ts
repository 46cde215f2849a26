import type { RowDataPacket } from 'mysql2/promise';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Pool, query } from '../runtime/mysql.ts';
import { holdState } from './hold-states.ts';
import { refused, unknown } from './reservation-outcomes.ts';
import type { Reservations } from './reservations.ts';

/** Requests looked for in one statement, and statements at once: refused buyers come in crowds. */
const requestsMax = 200;
const inFlightMax = 2;
const queueDepthMax = 10_000;

/**
 * Looks whether the ledger holds units for requests that are about to be refused although their users
 * are known: an earlier attempt of the same request, whose record Redis has lost and whose order may
 * not be written yet. Its id is adopted then, as from a record.
 */
export interface AdoptHolds {
  /**
   * Answers the orders that hold under the very id they came with: they are to be posted, which
   * answers what the ledger has. What cannot be looked up is answered as unknown.
   */
  adopt(reservations: Reservations): Promise<number[]>;
  close(): Promise<void>;
}

/**
 * It is asked after the gate has refused. A gate that lost the record was installed since, under a new
 * epoch, so an earlier attempt's post has either committed by now or is refused for its old epoch.
 */
export function createAdoptHolds(options: {
  /** Of readers: buyers' posts must not wait behind those who are refused. */
  readonly pool: Pool;
  readonly metrics: BatcherMetrics;
  readonly log: Log;
}): AdoptHolds {
  const { pool, metrics, log } = options;
  const batcher = new Batcher<RequestName, RequestHold | undefined>({
    name: 'stock_held_request',
    entriesMax: requestsMax,
    inFlightMax,
    queueDepthMax,
    metrics,
    run: (names, { deadline }) => readHeld(pool, names, deadline),
  });

  async function adoptOne(reservations: Reservations, index: number): Promise<boolean> {
    const { orderId, userId, requestId, fingerprint, lines } = reservations.at(index);
    const skuId = lines[0]?.skuId ?? 0n;
    const hold = await batcher.add({ skuId, userId, requestId }, reservations.deadline);
    if (hold === undefined) return false;
    if (!hold.fingerprint.equals(fingerprint)) {
      reservations.refuse(index, refused('IDEMPOTENCY_KEY_REUSED', skuId, true));
    } else if (hold.orderId !== orderId) {
      reservations.refuse(index, { $case: 'adopted', value: { orderId: hold.orderId } });
    } else {
      reservations.reopen(index);
      return true;
    }
    return false;
  }

  return {
    async adopt(reservations) {
      const doubtful = reservations.takeDoubtful();
      let failure: unknown;
      const own = await Promise.all(
        doubtful.map((index) =>
          adoptOne(reservations, index).catch((error) => {
            failure = error;
            reservations.answer(index, unknown);
            return false;
          }),
        ),
      );
      if (failure) log.warn({ err: failure }, 'refused requests could not be looked for');
      return doubtful.filter((_, at) => own[at]);
    },
    close: () => batcher.close(),
  };
}

/** A request, by the lowest SKU of its order. */
interface RequestName {
  readonly skuId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
}

interface RequestHold {
  readonly orderId: bigint;
  readonly fingerprint: Buffer;
}

/** The holds that are HELD of these requests; each is a short range of the buyers' index. */
async function readHeld(
  pool: Pool,
  names: readonly RequestName[],
  deadline: Deadline,
): Promise<(RequestHold | undefined)[]> {
  const ranges = names.map(
    ({ skuId, userId }) =>
      `(sku_id = ${skuId} AND user_id = ${userId} AND state = ${holdState.HELD})`,
  );
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT order_id, sku_id, user_id, request_id, fingerprint
     FROM stock_holds FORCE INDEX (holds_by_buyer) WHERE ${[...new Set(ranges)].join(' OR ')}`,
    [],
    { deadline },
  );
  const held = new Map(
    rows.map((row) => [
      `${row.sku_id} ${row.user_id} ${(row.request_id as Buffer).toString('latin1')}`,
      { orderId: BigInt(row.order_id), fingerprint: row.fingerprint as Buffer },
    ]),
  );
  return names.map(({ skuId, userId, requestId }) => held.get(`${skuId} ${userId} ${requestId}`));
}
