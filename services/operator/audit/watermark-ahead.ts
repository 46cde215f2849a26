import { firstOrderIdAt, partsOfOrderId } from '../order-id.ts';
import { readClock } from '../stores.ts';
import type { StoresLook } from './promise.ts';

/** Clocks that differ by more do not tell the same time; honest ones differ by far less. */
const aheadMsMax = 5_000;

/**
 * No order can be posted whose id is at or below the watermark. One that lies in the future, raised by
 * a clock that was wrong, refuses all orders until then; the sweep sets it back once it knows the time.
 */
export async function lookAtWatermark({ stores, report }: StoresLook): Promise<void> {
  const [{ now }, [row]] = await Promise.all([
    readClock(stores.stock, 0),
    stores.stock.rows('SELECT CAST(order_id AS CHAR) FROM watermark WHERE id = 1'),
  ]);
  const watermark = BigInt(String(row?.[0] ?? 0));
  const databaseMs = Date.parse(`${now.replace(' ', 'T')}Z`);
  const hostMs = Date.now();
  if (Math.abs(databaseMs - hostMs) > aheadMsMax) {
    report({
      kind: 'clocks-differ',
      sentence: `it is ${now} UTC by the clock of ${stores.stock.server}, and ${textOf(hostMs)} UTC by this machine's: set the wrong one right`,
      isFinding: true,
    });
  }
  const nowMs = Math.min(databaseMs, hostMs);
  if (watermark <= firstOrderIdAt(nowMs + aheadMsMax)) return;
  const until = textOf(partsOfOrderId(watermark).time.getTime());
  report({
    kind: 'watermark-ahead',
    sentence: `the ledger refuses all orders made before ${until} UTC, which is in the future: the sweep of stock sets this back as soon as the clocks agree`,
  });
}

function textOf(timeMs: number): string {
  return new Date(timeMs).toISOString().slice(0, 23).replace('T', ' ');
}
