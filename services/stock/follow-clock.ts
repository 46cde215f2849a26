import { Deadline } from '../runtime/deadline.ts';
import type { JudgedTime } from '../runtime/judged-time.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import { readDatabaseTimeMs } from './ledger-skus.ts';

const askEveryMs = 1_000;
const deadlineMs = 1_000;

/** Tells the judged time what the ledger's clock says, and the log which clocks are wrong. */
export function followClock(options: {
  readonly pool: Pool;
  readonly time: JudgedTime;
  readonly log: Log;
}): Loop {
  const { pool, time, log } = options;
  let wrongBefore = '';
  return startLoop({
    name: 'clock',
    intervalMs: askEveryMs,
    log,
    async run() {
      time.observe('mysql', await readDatabaseTimeMs(pool, Deadline.after(deadlineMs)));
      const aheadMs = Object.fromEntries(time.wrongClocks());
      const wrong = Object.keys(aheadMs).join(', ');
      if (wrong !== wrongBefore && wrong !== '') log.error({ aheadMs }, 'clocks are wrong');
      else if (wrong !== wrongBefore) log.info('the clocks agree again');
      wrongBefore = wrong;
    },
  });
}
