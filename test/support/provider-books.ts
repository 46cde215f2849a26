import { DatabaseSync } from 'node:sqlite';
import type { System } from './system.ts';

/** What the payment provider itself has noted, the far end of all money. */
export interface ProviderBooks {
  readonly paidSessions: number;
  /** Captured and not given back, in minor units. */
  readonly keptMinor: bigint;
  readonly capturedMinor: bigint;
  /** Sessions that gave back more than was captured: never. */
  readonly overRefunded: readonly string[];
}

/** Reads the simulator's own store, not what it tells. */
export function readProviderBooks({ env }: Pick<System, 'env'>): ProviderBooks {
  const sqlite = new DatabaseSync(env.SLUICE_SIMULATOR_DATA as string, {
    readOnly: true,
    timeout: 5_000,
  });
  try {
    const sessions = sqlite
      .prepare(
        "SELECT session_id, captured_minor_units AS captured FROM sessions WHERE status = 'paid'",
      )
      .all();
    const refunds = sqlite
      .prepare("SELECT session_id, minor_units AS minor FROM refunds WHERE status = 'succeeded'")
      .all();
    const back = new Map<unknown, bigint>();
    for (const { session_id: session, minor } of refunds) {
      back.set(session, (back.get(session) ?? 0n) + BigInt(String(minor)));
    }
    let capturedMinor = 0n;
    let backMinor = 0n;
    const overRefunded: string[] = [];
    for (const { session_id: session, captured } of sessions) {
      const given = back.get(session) ?? 0n;
      capturedMinor += BigInt(String(captured));
      backMinor += given;
      if (given > BigInt(String(captured))) overRefunded.push(String(session));
    }
    return {
      paidSessions: sessions.length,
      capturedMinor,
      keptMinor: capturedMinor - backMinor,
      overRefunded,
    };
  } finally {
    sqlite.close();
  }
}
