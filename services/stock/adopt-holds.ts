import type { RowDataPacket } from 'mysql2/promise';
import type { Log } from '../runtime/log.ts';
import { type Pool, query } from '../runtime/mysql.ts';
import { holdState } from './hold-states.ts';
import { refused, unknown } from './reservation-outcomes.ts';
import type { Reservations } from './reservations.ts';

/** Requests looked for in one statement. */
const requestsMax = 200;

/**
 * Looks whether the ledger holds units for requests that are about to be refused although their users
 * are known: an earlier attempt of the same request, whose record Redis has lost and whose order may
 * not be written yet. Its id is adopted then, as from a record. Answers the orders that hold under the
 * very id they came with: they are to be posted, which answers what the ledger has.
 */
export type AdoptHolds = (reservations: Reservations) => Promise<number[]>;

/**
 * It is asked after the gate has refused. A gate that lost the record was installed since, under a new
 * epoch, so an earlier attempt's post has either committed by now or is refused for its old epoch.
 */
export function createAdoptHolds(pool: Pool, log: Log): AdoptHolds {
  return async (reservations) => {
    const doubtful = reservations.takeDoubtful();
    const own: number[] = [];
    for (let from = 0; from < doubtful.length; from += requestsMax) {
      const some = doubtful.slice(from, from + requestsMax);
      try {
        own.push(...(await adoptSome(pool, reservations, some)));
      } catch (error) {
        log.warn({ err: error }, 'the ledger could not be asked for requests that are refused');
        for (const index of some) reservations.answer(index, unknown);
      }
    }
    return own;
  };
}

async function adoptSome(
  pool: Pool,
  reservations: Reservations,
  indexes: readonly number[],
): Promise<number[]> {
  const holds = await readHeld(pool, reservations, indexes);
  const own: number[] = [];
  for (const index of indexes) {
    const { orderId, userId, requestId, fingerprint } = reservations.at(index);
    const hold = holds.get(`${userId}\n${requestId}`);
    if (hold === undefined) continue;
    if (!hold.fingerprint.equals(fingerprint)) {
      reservations.refuse(index, refused('IDEMPOTENCY_KEY_REUSED', 0n, true));
    } else if (hold.orderId === orderId) {
      reservations.reopen(index);
      own.push(index);
    } else {
      reservations.refuse(index, { $case: 'adopted', value: { orderId: hold.orderId } });
    }
  }
  return own;
}

interface RequestHold {
  readonly orderId: bigint;
  readonly fingerprint: Buffer;
}

/** Holds that are HELD of these requests, by the lowest SKU of each; each is a short range of the buyers' index. */
async function readHeld(
  pool: Pool,
  reservations: Reservations,
  indexes: readonly number[],
): Promise<Map<string, RequestHold>> {
  const ranges = indexes.map((index) => {
    const { userId, lines } = reservations.at(index);
    return `(sku_id = ${lines[0]?.skuId} AND user_id = ${userId} AND state = ${holdState.HELD})`;
  });
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT order_id, user_id, request_id, fingerprint
     FROM stock_holds FORCE INDEX (holds_by_buyer) WHERE ${[...new Set(ranges)].join(' OR ')}`,
    [],
    { deadline: reservations.deadline },
  );
  return new Map(
    rows.map((row) => [
      `${row.user_id}\n${(row.request_id as Buffer).toString('latin1')}`,
      { orderId: BigInt(row.order_id), fingerprint: row.fingerprint as Buffer },
    ]),
  );
}
