import type { KnobPanel } from './knobs.ts';
import { type Amount, isPayable, type Session } from './session.ts';

export interface PageOptions {
  readonly knobs: KnobPanel;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/** The page of a session as it is now: what is paid, how long there is, and the buttons or the result. */
export function payPage(session: Session, { knobs, now }: PageOptions): string {
  const { status, captured, amount } = session;
  const canPay = isPayable(session) || (status === 'closed' && knobs.now.payAfterClose);
  return page(
    titles[status],
    `<h1 class="shop">Sluice demo shop</h1>
<p class="amount">${htmlText(formatAmount(captured ?? amount))}</p>
<p class="order">Order ${htmlText(session.orderId)}</p>
${isPayable(session) ? countdown(session.expireMs - now()) : ''}
${result(session)}
${canPay ? buttons(session) : ''}`,
  );
}

/** After "Abandon": nothing has happened, and the way back is open. */
export function abandonedPage(session: Session): string {
  const back = isPayable(session)
    ? `<p><a class="button quiet" href="/pay/${session.sessionId}">Back to the payment</a></p>`
    : '';
  return page(
    'You left without paying',
    `<h1 class="shop">Sluice demo shop</h1>
<div class="result" role="status"><h2>You left without paying</h2>
<p>Nothing was taken. The shop is not told; your order ends by itself when its time is over.</p></div>
${back}`,
  );
}

export function missingPage(): string {
  return page(
    'There is no such payment',
    `<div class="result bad" role="status"><h1>There is no such payment</h1>
<p>Look for the link in the shop once more.</p></div>`,
  );
}

const titles = {
  open: 'Pay your order',
  failed: 'Payment failed',
  processing: 'Payment in process',
  paid: 'Paid',
  closed: 'Payment closed',
} as const;

function result({ status, failure }: Session): string {
  if (status === 'paid') {
    return block('good', 'Paid. Thank you!', 'You can close this window; the shop is being told.');
  }
  if (status === 'processing') {
    return block(
      'good',
      'Your payment is being processed',
      'Your bank decides; the shop will be told.',
    );
  }
  if (status === 'failed') {
    return block('bad', 'That did not work', `${failure}. Nothing was taken; you may try again.`);
  }
  if (status === 'closed') {
    return block('bad', 'This payment is closed', 'Its time is over, or the order was cancelled.');
  }
  return '';
}

function block(kind: 'good' | 'bad', title: string, text: string): string {
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  return `<div class="result ${kind}" role="status"><h2>${title}</h2><p>${htmlText(sentence)}</p></div>`;
}

/** Without JavaScript it stands still, and says until when as of the moment it was shown. */
function countdown(leftMs: number): string {
  const leftS = Math.max(0, Math.ceil(leftMs / 1_000));
  const text = `${Math.floor(leftS / 60)}:${String(leftS % 60).padStart(2, '0')}`;
  return `<p class="countdown">Time left <span role="timer" data-left-ms="${Math.max(0, leftMs)}">${text}</span></p>`;
}

/** A closed session that a knob leaves payable can be paid, and nothing else. */
function buttons(session: Session): string {
  const { sessionId, amount } = session;
  const form = (action: string, kind: string, label: string): string =>
    `<form method="post" action="/pay/${sessionId}/${action}"><button class="button ${kind}">${htmlText(label)}</button></form>`;
  return `<div class="buttons">
${form('pay', 'main', `Pay ${formatAmount(amount)}`)}
${isPayable(session) ? form('fail', 'quiet', 'Fail') + form('abandon', 'quiet', 'Abandon') : ''}
</div>`;
}

function page(title: string, content: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title} · Sluice payment simulator</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/assets/pay.css">
<script src="/assets/pay.js" defer></script>
</head>
<body>
<main>
${content}
</main>
<footer>Simulated payment provider: no money moves here.</footer>
</body>
</html>
`;
}

/** 123456n USD → "$1,234.56", exact for amounts that a number cannot hold. */
function formatAmount({ currencyCode, minorUnits }: Amount): string {
  const format = new Intl.NumberFormat('en', { style: 'currency', currency: currencyCode });
  const digits = format.resolvedOptions().maximumFractionDigits ?? 2;
  const text = String(minorUnits).padStart(digits + 1, '0');
  const whole = text.slice(0, text.length - digits);
  const exact = digits === 0 ? whole : `${whole}.${text.slice(-digits)}`;
  return format.format(exact as Intl.StringNumericLiteral);
}

function htmlText(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
