import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '../../deploy/local/port.ts';
import { startRedis } from '../../deploy/local/redis.ts';
import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import { createBreaker } from '../../services/runtime/breaker.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { JudgedTime } from '../../services/runtime/judged-time.ts';
import { createLog } from '../../services/runtime/log.ts';
import { type ClosedGate, Gate, type GateSettings } from '../../services/stock/gate.ts';
import { connectGate, type GateConnection } from '../../services/stock/gate-connection.ts';
import { reserveAnswer } from '../../services/stock/gate-scripts.ts';
import { eventually } from '../support/eventually.ts';

/** A Redis of its own and the gate on it. */
export interface GateUnderTest {
  readonly gate: Gate;
  readonly connection: GateConnection;
  /** Stops Redis and starts it again on what it had written: another server for the gate. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

/** A bound that a pause of the machine does not reach: after it nothing is let in. */
const timeoutMs = 20_000;

export async function startGate(): Promise<GateUnderTest> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-lua-'));
  const port = await freePort();
  let server = await startRedis({ dir, port });
  const log = createLog('test', 'silent');
  const time = new JudgedTime();
  const connection = connectGate({ url: server.url, commandTimeoutMs: timeoutMs, time, log });
  const breaker = createBreaker({ name: 'gate', log });
  await eventually(() => connection.connected, 'Redis is connected');
  return {
    gate: new Gate(connection, breaker, timeoutMs),
    connection,
    async restart() {
      await server.stop();
      server = await startRedis({ dir, port });
      await eventually(() => connection.connected, 'Redis is connected again');
    },
    async close() {
      connection.close();
      breaker.stop();
      await server.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

let lastSku = 0n;

/** A SKU that no test has used. */
export function nextSku(): bigint {
  lastSku += 1n;
  return lastSku;
}

export const settings: GateSettings = {
  version: 1n,
  openMs: undefined,
  closeMs: undefined,
  limitPerUser: 0,
  paused: false,
  priceMinor: 1_999n,
  currency: 'USD',
};

/** Installs a gate with some units and, if given, buyers and other settings. */
export async function install(
  { gate }: Pick<GateUnderTest, 'gate'>,
  skuId: bigint,
  available: bigint,
  more: Partial<GateSettings> & { epoch?: bigint; buyers?: string[] } = {},
): Promise<void> {
  const { epoch = 1n, buyers = [], ...changed } = more;
  const closed = (await gate.close(skuId, randomUUID(), 0)) as ClosedGate;
  await gate.installBuyers(skuId, closed, { first: true, fields: buyers });
  await gate.install(skuId, closed, { epoch, available, settings: { ...settings, ...changed } });
}

let lastOrder = 1_000n;

/** An order for one SKU by user 1, unless told otherwise. */
export function order(
  skuId: bigint,
  more: Partial<StockReservation> & { quantity?: number } = {},
): StockReservation {
  lastOrder += 1n;
  const { quantity = 1, ...fields } = more;
  return {
    orderId: lastOrder,
    userId: 1n,
    requestId: `request ${lastOrder}`,
    fingerprint: Buffer.alloc(16, 7),
    lines: [{ skuId, quantity }],
    ...fields,
  };
}

const names = new Map<number, string>(
  Object.entries(reserveAnswer).map(([name, number]) => [number, name]),
);

/** The answers to a batch: a name, `known <name>` for a known user, or `adopt <order>`. */
export async function reserve(
  { gate }: Pick<GateUnderTest, 'gate'>,
  skuId: bigint,
  orders: readonly StockReservation[],
  { line = 0, leftMs = timeoutMs } = {},
): Promise<string[]> {
  const entries = orders.map((reservation) => {
    const at = reservation.lines.findIndex((each) => each.skuId === skuId);
    return { reservation, line: line === 0 ? at : line };
  });
  const reply = await gate.reserve(skuId, entries, Deadline.after(leftMs));
  if (reply.kind !== 'DECIDED') return [reply.kind];
  return reply.answers.map((answer) => {
    if (typeof answer === 'string') return `adopt ${answer}`;
    return answer >= 100 ? `known ${names.get(answer - 100)}` : `${names.get(answer)}`;
  });
}
