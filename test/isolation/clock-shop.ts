import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startMariaDb } from '../../deploy/local/mariadb.ts';
import { freePort } from '../../deploy/local/port.ts';
import { eventually } from '../support/eventually.ts';
import { createFakeClock } from '../support/fake-clock.ts';
import { type System, startSystem } from '../support/system.ts';
import { answered } from '../support/workload.ts';

// A system whose clocks a test sets: that of MariaDB, that of Redis, and that of a host on which the second copies
// of order and stock run. The clocks of the first copies and of the test are the machine's.

export type ClockName = 'MySQL' | 'Redis' | 'a host';

export interface ClockShop {
  readonly system: System;
  /** Sets one of the clocks, and waits until whoever goes by it tells the new time. */
  set(name: ClockName, aheadSeconds: number): Promise<void>;
  close(): Promise<void>;
}

/** Sold all the time; the last one's sale began five minutes ago and ends in five. */
export const onSale = [7_401n, 7_402n, 7_403n, 7_404n] as const;
/** Its sale begins in five minutes. */
export const notYet = 7_411n;
/** Its sale ended five minutes ago. */
export const over = 7_412n;

export const settleAgeMs = 3_000;
/** How late an answer may be that says what time it is; the steps are far longer. */
const lateMsMax = 120_000;
const minutes = 60_000;
const mebibyte = 1024 * 1024;

export async function startClockShop(): Promise<ClockShop> {
  const clocks = {
    MySQL: await createFakeClock(),
    Redis: await createFakeClock(),
    'a host': await createFakeClock(),
  };
  const dir = mkdtempSync(join(tmpdir(), 'sluice-clocks-'));
  const database = await startMariaDb({
    ...{ dir, port: await freePort() },
    ...{ bufferPoolBytes: 64 * mebibyte, logFileBytes: 64 * mebibyte },
    env: { ...process.env, ...clocks.MySQL.env },
  });
  const stopDatabase = async (): Promise<void> => {
    await database.kill();
    rmSync(dir, { recursive: true, force: true });
    for (const clock of Object.values(clocks)) clock.remove();
  };
  try {
    const system = await startSystem({
      ...{ name: 'clocks', orders: 2, stocks: 2 },
      mysqlUrls: [database.url],
      redisEnv: clocks.Redis.env,
      env: {
        SLUICE_SETTLE_AGE_MS: String(settleAgeMs),
        SLUICE_STOCK_RECHECK_AGE_SECONDS: '5',
        // An order has time left for longer than a test takes, and less than a clock steps by.
        SLUICE_ORDER_EXPIRY_SECONDS: '300',
      },
      envOf: (_service, index) => (index === 1 ? clocks['a host'].env : {}),
    });
    const close = async (): Promise<void> => {
      await system.close();
      await stopDatabase();
    };
    await createSkus(system).catch(async (error) => {
      await close();
      throw error;
    });
    const set = async (name: ClockName, aheadSeconds: number): Promise<void> => {
      clocks[name].set(aheadSeconds);
      const isSet = async (): Promise<boolean> => {
        const times = await timesBy(system, name);
        return times.every((ms) => Math.abs(ms - Date.now() - aheadSeconds * 1_000) < lateMsMax);
      };
      // What a service says of its time is up to a second old.
      await eventually(isSet, `the clock of ${name} is ${aheadSeconds} s ahead`);
    };
    return { system, set, close };
  } catch (error) {
    await stopDatabase();
    throw error;
  }
}

/** The time of everybody who goes by a clock, in milliseconds since 1970. */
async function timesBy(system: System, name: ClockName): Promise<number[]> {
  if (name === 'MySQL') {
    const sql = 'SELECT UNIX_TIMESTAMP(NOW(3)) * 1000 AS now_ms';
    const [rows] = await system.stockPool.query(sql);
    return [Number((rows as { now_ms: string }[])[0]?.now_ms)];
  }
  if (name === 'Redis') return [Number((await system.redis.time())[0]) * 1_000];
  const copies = [system.orders[1], system.stocks[1]];
  const asked = copies.map((copy) => fetch(`http://127.0.0.1:${copy?.metricsPort}/healthz`));
  return (await Promise.all(asked)).map(({ headers }) => Date.parse(headers.get('date') ?? ''));
}

async function createSkus(system: System): Promise<void> {
  for (const skuId of onSale) await system.createSku({ skuId, supplied: 1_000_000n });
  const nowMs = Date.now();
  const at = (ms: number): Date => new Date(nowMs + ms);
  const windows = [
    { skuId: notYet, openTime: at(5 * minutes) },
    { skuId: over, openTime: at(-10 * minutes), closeTime: at(-5 * minutes) },
  ];
  for (const window of windows) {
    const unitPrice = { currencyCode: 'EUR', minorUnits: 1_999n };
    const sku = { title: 'Thing', unitPrice, supplied: 100n, ...window };
    await answered(() => system.admin.createSku(sku));
  }
  const lasting = { openTime: at(-5 * minutes), closeTime: at(5 * minutes) };
  await answered(() => system.admin.updateSku({ skuId: onSale[3], ...lasting }));
}
