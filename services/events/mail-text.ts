import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import type { KnownOrderEvent } from './order-event.ts';

export interface MailText {
  readonly subject: string;
  readonly text: string;
  readonly html: string;
}

/** What a buyer reads when the payment of an order has arrived. */
export function confirmationText(event: KnownOrderEvent): MailText {
  const { orderId, items, total, orderCreateTime } = event;
  const ordered = `${orderCreateTime.toISOString().slice(0, 16).replace('T', ' ')} UTC`;
  const lines = items.map(({ skuId, quantity, unitPrice }) => {
    const price = unitPrice ?? { currencyCode: total.currencyCode, minorUnits: 0n };
    const sum = { ...price, minorUnits: price.minorUnits * BigInt(quantity) };
    return [`Item ${skuId}`, String(quantity), formatMoney(price), formatMoney(sum)] as const;
  });
  const greeting = `Thank you. Your payment for order ${orderId} of ${ordered} has arrived.`;
  return {
    subject: `Your order ${orderId} is paid`,
    text: [
      greeting,
      '',
      ...lines.map(([item, units, price, sum]) => `${units} x ${item} at ${price}: ${sum}`),
      '',
      `Total: ${formatMoney(total)}`,
      '',
    ].join('\n'),
    html: [
      '<!doctype html>',
      `<html lang="en"><body><p>${escapeHtml(greeting)}</p>`,
      '<table><tr><th>Item</th><th>Units</th><th>Price</th><th>Sum</th></tr>',
      ...lines.map((cells) => `<tr>${cells.map(cell).join('')}</tr>`),
      `<tr><th colspan="3">Total</th>${cell(formatMoney(total))}</tr></table></body></html>`,
      '',
    ].join('\n'),
  };
}

const formats = new Map<string, Intl.NumberFormat>();
/** More currencies than there are; the cache must not grow with what arrives. */
const formatsMax = 200;

/** An amount with as many digits as its currency has, such as `EUR 1,299.90` or `JPY 1,300`; exact at any size. */
export function formatMoney({ currencyCode, minorUnits }: Money): string {
  let format = formats.get(currencyCode);
  if (format === undefined) {
    const currency = { style: 'currency', currency: currencyCode } as const;
    format = new Intl.NumberFormat('en', { ...currency, currencyDisplay: 'code' });
    if (formats.size < formatsMax) formats.set(currencyCode, format);
  }
  const digits = format.resolvedOptions().maximumFractionDigits ?? 2;
  const amount = `${minorUnits}e-${digits}` as const;
  return format.format(amount as `${number}`).replaceAll('\u00a0', ' ');
}

function cell(text: string): string {
  return `<td>${escapeHtml(text)}</td>`;
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

export function escapeHtml(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => entities[character] as string);
}
