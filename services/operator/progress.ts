import { partsOfOrderId } from './order-id.ts';

const showEveryMs = 200;

/** Tells a person at a terminal that something goes on; silent anywhere else. */
export interface Progress {
  show(text: string): void;
  orders(count: number, until: bigint, waiting: number): void;
  /** Removes what was shown. */
  done(): void;
}

export function createProgress(stream: NodeJS.WritableStream & { isTTY?: boolean }): Progress {
  if (!stream.isTTY) return { show() {}, orders() {}, done() {} };
  let shownAtMs = 0;
  const write = (text: string): void => {
    stream.write(`\r\x1b[K${text}`);
  };
  return {
    show: write,
    orders(count, until, waiting) {
      const nowMs = performance.now();
      if (nowMs - shownAtMs < showEveryMs) return;
      shownAtMs = nowMs;
      const day = partsOfOrderId(until).time.toISOString().slice(0, 16).replace('T', ' ');
      const again = waiting > 0 ? `, ${waiting} to look at again` : '';
      write(`${count.toLocaleString('en')} orders, up to ${day} UTC${again}`);
    },
    done: () => write(''),
  };
}
