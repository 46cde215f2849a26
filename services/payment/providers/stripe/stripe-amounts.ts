import type { Money } from '../../../../gen/sluice/stock/v1/money.ts';
import { invalidRequest } from '../../../runtime/refusals.ts';

/**
 * Stripe counts in the smallest unit as we do: cents for USD, whole yen for JPY (a "zero-decimal" currency). Two
 * currencies without a smaller unit are counted in hundredths nevertheless, for old integrations' sake.
 */
const hundredfold = new Set(['ISK', 'UGX']);
/** Ariary has a smaller unit, which Stripe does not know: what is not whole could not be paid. */
const unsupported = new Set(['MGA']);

/** An amount as Stripe takes it. @throws Refusal INVALID_REQUEST if Stripe cannot express it */
export function toStripeAmount({ currencyCode, minorUnits }: Money): {
  amount: number;
  currency: string;
} {
  const units = hundredfold.has(currencyCode) ? minorUnits * 100n : minorUnits;
  if (unsupported.has(currencyCode)) throw refusedAmount(`${currencyCode} is not supported`);
  if (units <= 0n || units > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw refusedAmount('is not an amount that Stripe takes');
  }
  return { amount: Number(units), currency: currencyCode.toLowerCase() };
}

/** An amount as Stripe tells it. @throws Error if it is none of ours: what it means is not known then */
export function fromStripeAmount(amount: number, currency: string): Money {
  const currencyCode = currency.toUpperCase();
  if (!Number.isSafeInteger(amount)) throw new Error(`Stripe tells an amount of ${amount}`);
  const units = BigInt(amount);
  if (!hundredfold.has(currencyCode)) return { currencyCode, minorUnits: units };
  if (units % 100n !== 0n) throw new Error(`Stripe tells ${amount} hundredths of ${currencyCode}`);
  return { currencyCode, minorUnits: units / 100n };
}

function refusedAmount(description: string): Error {
  return invalidRequest([{ field: 'amount', description }]);
}
