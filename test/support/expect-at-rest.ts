import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { eventually } from './eventually.ts';
import { findBreaches } from './invariants.ts';
import { findMoneyBreaches, keptByOrders } from './money-invariants.ts';
import { readProviderBooks } from './provider-books.ts';
import type { System } from './system.ts';
import type { Click } from './workload.ts';

const run = promisify(execFile);
const command = join(import.meta.dirname, '../../sluice');
/** What a fault has left behind is settled within a minute; the rest is for the slowest machine. */
const settledWithinMs = 180_000;

/** Every promise that is broken now, or whose work is still under way. */
export async function findAllBreaches(
  system: System,
  history: readonly Click[] = [],
): Promise<string[]> {
  const [stock, money] = await Promise.all([
    findBreaches(system, history),
    findMoneyBreaches(system),
  ]);
  const books = readProviderBooks(system);
  const kept = await keptByOrders(system.orderPools);
  const breaches = [...stock, ...money];
  if (books.keptMinor !== kept) {
    breaches.push(`P6 the provider keeps ${books.keptMinor}, the orders say ${kept}`);
  }
  for (const session of books.overRefunded)
    breaches.push(`P6 session ${session} gave back too much`);
  return breaches;
}

/** Waits until nothing is broken or under way, and then lets the audit say the same. */
export async function expectAllAtRest(
  system: System,
  history: readonly Click[] = [],
): Promise<void> {
  let breaches: string[] = ['not looked yet'];
  const clean = async (): Promise<boolean> => {
    breaches = await findAllBreaches(system, history);
    return breaches.length === 0;
  };
  const bounds = { withinMs: settledWithinMs, everyMs: 500 };
  await eventually(clean, 'no promise is broken and nothing is under way', bounds).catch(
    (cause) => {
      assert.deepEqual(breaches.slice(0, 20), [], String(cause));
      throw cause;
    },
  );
  await expectCleanAudit(system);
}

/** Runs `./sluice audit` as an operator would. */
export async function expectCleanAudit({ env }: Pick<System, 'env'>): Promise<void> {
  const { stdout } = await run(command, ['audit', '--json'], {
    env: { PATH: process.env.PATH ?? '', ...env },
    maxBuffer: 64 * 1024 * 1024,
  }).catch((error: Error & { stdout?: string }) => {
    throw new Error(`the audit is not clean: ${error.stdout || error.message}`, { cause: error });
  });
  assert.doesNotThrow(() => JSON.parse(stdout), 'the audit prints nothing but JSON');
}
