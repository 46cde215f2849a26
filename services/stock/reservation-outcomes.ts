import type {
  ReservationResult,
  StockReservation,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { Refusal, type RefusalReason, reasonNumber, refusalTable } from '../runtime/refusals.ts';
import type { PostResult } from './decide-post.ts';
import { knownFlag, reserveAnswer } from './gate-scripts.ts';
import type { DeductStatus } from './stock-metrics.ts';

/** The answer to one order. */
export type Outcome = NonNullable<ReservationResult['outcome']>;

export const dead: Outcome = { $case: 'dead', value: {} };
export const idTaken: Outcome = { $case: 'idTaken', value: {} };
export const unknown: Outcome = { $case: 'unknown', value: { lockedSkuId: 0n } };

/** @param lookUp whether an order of this request may exist although it is refused */
export function refused(
  reason: RefusalReason,
  skuId: bigint,
  lookUp: boolean,
  message: string = refusalTable[reason].title,
): Outcome {
  const { retryAfterMs } = refusalTable[reason];
  const value = { reason: reasonNumber(reason), skuId, lookUp, message, retryAfterMs };
  return { $case: 'refused', value };
}

/** Where refusals of the gate stand in the error catalogue. */
const gateReasons: Readonly<Record<number, RefusalReason>> = {
  [reserveAnswer.KEY_REUSED]: 'IDEMPOTENCY_KEY_REUSED',
  [reserveAnswer.NOT_LOADED]: 'STOCK_NOT_LOADED',
  [reserveAnswer.NOT_STARTED]: 'SALE_NOT_STARTED',
  [reserveAnswer.ENDED]: 'SALE_ENDED',
  [reserveAnswer.PAUSED]: 'SKU_PAUSED',
  [reserveAnswer.LIMIT]: 'PURCHASE_LIMIT',
  [reserveAnswer.SOLD_OUT]: 'SOLD_OUT',
};

/** What the gate's answer means for the order; undefined if its units are taken. */
export function gateOutcome(answer: number | string, skuId: bigint): Outcome | undefined {
  if (typeof answer === 'string') {
    return { $case: 'adopted', value: { orderId: BigInt(answer) } };
  }
  if (answer === reserveAnswer.ADMITTED || answer === reserveAnswer.ADMITTED_BEFORE) {
    return undefined;
  }
  const known = answer >= knownFlag;
  const code = known ? answer - knownFlag : answer;
  if (code === reserveAnswer.ID_TAKEN) return idTaken;
  const reason = gateReasons[code];
  if (reason === undefined) throw new Error(`reserve_stock answered ${code} for an order`);
  return refused(reason, skuId, known);
}

/** What a gate call that failed means: before the first line nothing was done, if the failure says so. */
export function gateFailureOutcome(error: unknown, skuId: bigint, line: number): Outcome {
  const reason = error instanceof Refusal ? error.reason : undefined;
  if (line > 0 || (reason !== 'OVERLOADED' && reason !== 'DEPENDENCY_DOWN')) return unknown;
  return refused(reason, skuId, false);
}

/** Whether the gate refused because it has to be installed first. */
export function isNotLoaded(answer: number | string): boolean {
  return typeof answer === 'number' && answer % knownFlag === reserveAnswer.NOT_LOADED;
}

/** What the ledger's result means for the order. A refusal is always looked up: the gate was wrong. */
export function postOutcome(result: PostResult, { lines }: StockReservation): Outcome {
  switch (result.kind) {
    case 'RESERVED': {
      const reserved = lines.map(({ skuId, quantity }, index) => {
        const { currency = '', minorUnits = 0n } = result.prices[index] ?? {};
        return { skuId, quantity, unitPrice: { currencyCode: currency, minorUnits } };
      });
      return { $case: 'reserved', value: { lines: reserved } };
    }
    case 'DEAD':
      return dead;
    case 'ID_TAKEN':
      return idTaken;
    case 'BUSY':
      return { $case: 'unknown', value: { lockedSkuId: result.skuId } };
    case 'CURRENCIES_DIFFER':
      return refused('INVALID_REQUEST', 0n, true, 'lines: all SKUs must have one currency');
    default:
      return refused(result.kind, result.skuId, true);
  }
}

/** The metric's status of an answer. */
export function deductStatus(outcome: Outcome): DeductStatus {
  if (outcome.$case === 'reserved' || outcome.$case === 'adopted') return 'success';
  if (outcome.$case === 'unknown') return 'unknown';
  if (outcome.$case !== 'refused') return 'rejected';
  const { reason } = outcome.value;
  const down = reason === reasonNumber('OVERLOADED') || reason === reasonNumber('DEPENDENCY_DOWN');
  return down ? 'failed' : 'rejected';
}
