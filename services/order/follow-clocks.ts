import type { RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../runtime/deadline.ts';
import type { JudgedTime } from '../runtime/judged-time.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { query } from '../runtime/mysql.ts';
import type { OrderDatabase } from './order-database.ts';
import type { StockGateway } from './stock-gateway.ts';

const askEveryMs = 1_000;
const deadlineMs = 1_000;

export interface FollowClocksOptions {
  readonly databases: readonly OrderDatabase[];
  /** Names the server that a database is on: each has one clock, however many databases. */
  readonly serverOf: (database: number) => string;
  readonly stock: Pick<StockGateway, 'readTimeMs'>;
  readonly time: JudgedTime;
  readonly log: Log;
}

/** Asks the servers what time it is, and tells the log which clocks are wrong. A server that is away says nothing. */
export function followClocks(options: FollowClocksOptions): Loop {
  const { databases, serverOf, stock, time, log } = options;
  const first = new Map(databases.toReversed().map((each) => [serverOf(each.index), each]));
  let wrongBefore = '';

  async function ask(): Promise<void> {
    const asked = [...first].map(async ([server, { pool }]) => {
      const sql = 'SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED) AS now_ms';
      const deadline = Deadline.after(deadlineMs);
      const rows = await query<RowDataPacket[]>(pool, sql, [], { deadline });
      time.observe(server, Number(rows[0]?.now_ms));
    });
    const stockMs = stock.readTimeMs(Deadline.after(deadlineMs));
    await Promise.allSettled([...asked, stockMs.then((nowMs) => time.observe('stock', nowMs))]);
  }

  return startLoop({
    name: 'clocks',
    intervalMs: askEveryMs,
    log,
    async run() {
      await ask();
      const aheadMs = Object.fromEntries(time.wrongClocks());
      const wrong = Object.keys(aheadMs).join(', ');
      if (wrong !== wrongBefore && wrong !== '') log.error({ aheadMs }, 'clocks are wrong');
      else if (wrong !== wrongBefore) log.info('the clocks agree again');
      wrongBefore = wrong;
      if (time.nowMs() === undefined) throw new Error('The clocks disagree');
    },
  });
}
