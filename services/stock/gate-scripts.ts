import { type LuaScript, loadScript } from '../runtime/lua-scripts.ts';

/**
 * What every script of the gate takes and answers, in the words of its header. `gate.ts` calls them;
 * a test compares this table with the headers and with the names in the scripts' first lines.
 */
export const gateScripts = {
  reserve_stock: {
    keys: ['avail', 'meta', 'buyers', 'pending', 'entries', 'request_records'],
    args: ['deadline_ms', 'not_before_ms', 'correction_ms', 'mode', 'entry_fields'],
    returns: { DECIDED: 1, GATE_NOT_LOADED: 2, EXPIRED: 3 },
    answers: {
      ADMITTED: 1,
      ADMITTED_BEFORE: 2,
      KEY_REUSED: 10,
      ID_TAKEN: 11,
      NOT_LOADED: 12,
      NOT_STARTED: 13,
      ENDED: 14,
      PAUSED: 15,
      LIMIT: 16,
      SOLD_OUT: 17,
    },
  },
  settle_pending: { keys: ['pending', 'entries'], args: ['orders'], returns: {} },
  fence_pending: {
    keys: ['avail', 'buyers', 'pending', 'entries', 'request_records'],
    args: ['orders'],
    returns: {},
  },
  release_stock: {
    keys: ['avail', 'meta', 'buyers', 'pending', 'entries'],
    args: ['epoch', 'order_fields'],
    returns: { CREDITED: 1, GATE_OLDER: 2, GATE_NEWER: 3, NOT_LOADED: 4 },
  },
  adjust_stock: {
    keys: ['avail', 'meta'],
    args: ['epoch', 'delta'],
    returns: { CREDITED: 1, GATE_OLDER: 2, GATE_NEWER: 3, NOT_LOADED: 4 },
  },
  close_gate: {
    keys: ['meta', 'avail', 'buyers', 'pending', 'entries'],
    args: ['token', 'fresh_ms', 'deadline_ms'],
    returns: { CLOSED: 1, BUSY: 2, EXPIRED: 3 },
  },
  install_buyers: {
    keys: ['meta', 'buyers'],
    args: ['token', 'run_id', 'replid', 'first', 'buyer_fields'],
    returns: { WRITTEN: 1, SUPERSEDED: 2 },
  },
  install_gate: {
    keys: ['avail', 'meta', 'pending', 'entries'],
    args: ['token', 'run_id', 'replid', 'epoch', 'available', 'settings_version', 'setting_fields'],
    returns: { OPENED: 1, SUPERSEDED: 2 },
  },
  apply_settings: {
    keys: ['meta'],
    args: ['settings_version', 'setting_fields'],
    returns: { APPLIED: 1, NOT_NEWER: 2, NOT_LOADED: 3 },
  },
  delete_request_records: { keys: ['request_records'], args: ['orders'], returns: {} },
} as const satisfies Record<string, GateScript>;

export interface GateScript {
  readonly keys: readonly string[];
  readonly args: readonly string[];
  readonly returns: Readonly<Record<string, number>>;
  readonly answers?: Readonly<Record<string, number>>;
}

export type GateScriptName = keyof typeof gateScripts;
/** The names of a script's returns, such as `'CREDITED' | 'GATE_OLDER' | …`. */
export type Returned<Name extends GateScriptName> = keyof (typeof gateScripts)[Name]['returns'];
/** The numbers that an entry of reserve_stock is answered with; see `knownFlag`. */
export const reserveAnswer = gateScripts.reserve_stock.answers;
export type ReserveAnswerName = keyof typeof reserveAnswer;

/** Added to a refusal's number if the user is among the SKU's buyers. */
export const knownFlag = 100;

/** Fields of one entry among the arguments of reserve_stock. */
export const reserveEntryFields = 6;

/** Reads all scripts from `lua/`. */
export function loadGateScripts(): Readonly<Record<GateScriptName, LuaScript>> {
  const names = Object.keys(gateScripts) as GateScriptName[];
  return Object.fromEntries(names.map((name) => [name, loadScript(name)])) as Record<
    GateScriptName,
    LuaScript
  >;
}

/** The name of a status number. @throws if the script answered one that its table does not have */
export function returnedName<Name extends GateScriptName>(
  script: Name,
  status: unknown,
): Returned<Name> {
  for (const [name, number] of Object.entries(gateScripts[script].returns)) {
    if (number === status) return name as Returned<Name>;
  }
  throw new Error(`${script} answered ${String(status)}, which it does not declare`);
}
