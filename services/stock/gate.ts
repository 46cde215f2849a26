import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Breaker } from '../runtime/breaker.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { runScript } from '../runtime/lua-scripts.ts';
import type { GateConnection } from './gate-connection.ts';
import { gateFailure } from './gate-failure.ts';
import {
  type GateScriptName,
  gateScripts,
  loadGateScripts,
  type Returned,
  returnedName,
} from './gate-scripts.ts';
import { requestRecordKey, skuKeys } from './redis-keys.ts';

/** One line of an order on its way through its SKU's gate. */
export interface GateEntry {
  readonly reservation: StockReservation;
  /** Index of the line; line 0 is the order's lowest SKU, whose record decides the order id. */
  readonly line: number;
}

/**
 * What the gate said to a batch. An answer is an order id as a string (adopt it), a number of
 * `reserveAnswer`, or for a refusal that number plus `knownFlag`.
 */
export type GateReply =
  | {
      readonly kind: 'DECIDED';
      readonly epoch: number;
      readonly currency: string;
      readonly answers: readonly (number | string)[];
    }
  | { readonly kind: 'GATE_NOT_LOADED' }
  | { readonly kind: 'EXPIRED' };

/** An order whose request is known. */
export interface OrderRequest {
  readonly orderId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
}

/** Units of one order to credit. */
export interface Credit {
  readonly orderId: bigint;
  readonly userId: bigint;
  readonly units: number;
}

/** Settings as the gate keeps them. */
export interface GateSettings {
  readonly version: bigint;
  readonly openMs: number | undefined;
  readonly closeMs: number | undefined;
  readonly limitPerUser: number;
  readonly paused: boolean;
  readonly priceMinor: bigint;
  readonly currency: string;
}

/** The right to install a gate, on the server that was closed. */
export interface ClosedGate {
  readonly token: string;
  readonly runId: string;
  readonly replid: string;
}

/** The gate of every SKU; the only caller of the scripts in `lua/`. */
export class Gate {
  readonly #connection: GateConnection;
  readonly #breaker: Breaker;
  readonly #commandTimeoutMs: number;
  readonly #scripts = loadGateScripts();

  constructor(connection: GateConnection, breaker: Breaker, commandTimeoutMs: number) {
    this.#connection = connection;
    this.#breaker = breaker;
    this.#commandTimeoutMs = commandTimeoutMs;
  }

  /**
   * Lets a batch through the gate of one SKU; or asks what it would answer to each entry alone, and
   * takes nothing.
   *
   * @throws Refusal DEPENDENCY_DOWN if surely nothing was done, OUTCOME_UNKNOWN if it may have been
   */
  async reserve(
    skuId: bigint,
    entries: readonly GateEntry[],
    deadline: Deadline,
    mode: 'take' | 'ask' = 'take',
  ): Promise<GateReply> {
    const keys = skuKeys(skuId);
    const names = [keys.avail, keys.meta, keys.buyers, keys.pending, keys.entries];
    // Once we stop waiting, a command that Redis still finds in its queue must do nothing.
    const leftMs = Math.min(this.#commandTimeoutMs, deadline.leftMs());
    const untilMs = Math.floor(this.#connection.redisNowMs() + leftMs);
    const args = [String(untilMs), String(Math.floor(this.#connection.notBeforeMs()))];
    args.push(String(this.#connection.correctionMs()), mode);
    for (const { reservation, line } of entries) {
      const { orderId, userId, requestId, fingerprint, lines } = reservation;
      const order = String(orderId);
      const user = String(userId);
      const units = String(lines[line]?.quantity);
      names.push(`${keys.requests}${user}:${requestId}`);
      args.push(order, user, units, line === 0 ? '1' : '0');
      args.push(`${order}:${fingerprint.toString('hex')}`, `${units}:${user}:${requestId}`);
    }
    const reply = await this.#breaker.fire(() => this.#run('reserve_stock', names, args));
    const [status, epoch, currency, ...answers] = reply as ReserveReply;
    const kind = returnedName('reserve_stock', status);
    if (kind === 'EXPIRED') this.#connection.lookAgain();
    return kind === 'DECIDED' ? { kind, epoch: Number(epoch), currency, answers } : { kind };
  }

  /** Removes orders that the ledger has from the pending list. */
  async settle(skuId: bigint, orderIds: readonly bigint[]): Promise<void> {
    const { pending, entries } = skuKeys(skuId);
    await this.#run('settle_pending', [pending, entries], orderIds.map(String));
  }

  /** Gives back what fenced orders took here, and forgets their requests; answers whose units came back. */
  async creditFenced(skuId: bigint, orders: readonly OrderRequest[]): Promise<boolean[]> {
    const keys = skuKeys(skuId);
    const names = [keys.avail, keys.buyers, keys.pending, keys.entries];
    for (const { userId, requestId } of orders) {
      names.push(requestRecordKey(keys, userId, requestId));
    }
    const ids = orders.map(({ orderId }) => String(orderId));
    const reply = (await this.#run('fence_pending', names, ids)) as number[];
    return reply.map((credited) => credited === 1);
  }

  /** Credits units that the ledger released under `epoch`. */
  async release(
    skuId: bigint,
    epoch: bigint,
    credits: readonly Credit[],
  ): Promise<Returned<'release_stock'>> {
    const keys = skuKeys(skuId);
    const args = [String(epoch)];
    for (const { orderId, userId, units } of credits) {
      args.push(String(orderId), String(userId), String(units));
    }
    const names = [keys.avail, keys.meta, keys.buyers, keys.pending, keys.entries];
    return returnedName('release_stock', await this.#run('release_stock', names, args));
  }

  /** Adds (or with a negative delta recalls) units that the ledger moved under `epoch`. */
  async adjust(skuId: bigint, epoch: bigint, delta: bigint): Promise<Returned<'adjust_stock'>> {
    const { avail, meta } = skuKeys(skuId);
    const args = [String(epoch), String(delta)];
    return returnedName('adjust_stock', await this.#run('adjust_stock', [avail, meta], args));
  }

  /** Closes a gate for an installation; `undefined` while another process is at it. */
  async close(
    skuId: bigint,
    token: string,
    respectOthersMs: number,
  ): Promise<ClosedGate | undefined> {
    const deadlineMs = Math.floor(this.#connection.redisNowMs() + this.#commandTimeoutMs);
    const { meta, avail, buyers, pending, entries } = skuKeys(skuId);
    const args = [token, String(respectOthersMs), String(deadlineMs)];
    const reply = await this.#run('close_gate', [meta, avail, buyers, pending, entries], args);
    const [status, runId, replid] = reply as [number, string, string];
    if (returnedName('close_gate', status) !== 'CLOSED') return undefined;
    return { token, runId, replid };
  }

  /** Writes one chunk of a closed gate's buyers (the first one clears them); false if superseded. */
  async installBuyers(
    skuId: bigint,
    { token, runId, replid }: ClosedGate,
    chunk: { readonly first: boolean; readonly fields: readonly string[] },
  ): Promise<boolean> {
    const { meta, buyers } = skuKeys(skuId);
    const args = [token, runId, replid, chunk.first ? '1' : '0', ...chunk.fields];
    const reply = await this.#run('install_buyers', [meta, buyers], args);
    return returnedName('install_buyers', reply) === 'WRITTEN';
  }

  /** Opens a closed gate with the ledger's figures; false if superseded. */
  async install(
    skuId: bigint,
    { token, runId, replid }: ClosedGate,
    ledger: {
      readonly epoch: bigint;
      readonly available: bigint;
      readonly settings: GateSettings;
    },
  ): Promise<boolean> {
    const { avail, meta, pending, entries } = skuKeys(skuId);
    const args = [token, runId, replid, String(ledger.epoch), String(ledger.available)];
    args.push(String(ledger.settings.version), ...settingFields(ledger.settings));
    const reply = await this.#run('install_gate', [avail, meta, pending, entries], args);
    return returnedName('install_gate', reply) === 'OPENED';
  }

  /** Copies settings to the gate unless it has newer ones. */
  async applySettings(skuId: bigint, settings: GateSettings): Promise<Returned<'apply_settings'>> {
    const args = [String(settings.version), ...settingFields(settings)];
    const reply = await this.#run('apply_settings', [skuKeys(skuId).meta], args);
    return returnedName('apply_settings', reply);
  }

  /** Forgets the records of requests at one SKU that still name these orders. */
  async forgetRequests(skuId: bigint, orders: readonly OrderRequest[]): Promise<void> {
    const keys = skuKeys(skuId);
    const names = orders.map((order) => requestRecordKey(keys, order.userId, order.requestId));
    await this.#run(
      'delete_request_records',
      names,
      orders.map(({ orderId }) => String(orderId)),
    );
  }

  async #run(
    name: GateScriptName,
    keys: readonly string[],
    args: readonly string[],
  ): Promise<unknown> {
    const fixedKeys = gateScripts[name].keys.length;
    if (keys.length < fixedKeys) throw new Error(`${name} takes ${fixedKeys} keys or more`);
    this.#connection.gatherWrites();
    try {
      return await runScript(this.#connection.redis, this.#scripts[name], keys, args);
    } catch (error) {
      throw gateFailure(error);
    }
  }
}

type ReserveReply = [status: number, epoch: string, currency: string, ...(number | string)[]];

function settingFields(settings: GateSettings): string[] {
  const { openMs, closeMs, limitPerUser, paused, priceMinor, currency } = settings;
  return [
    ...['open_ms', String(openMs ?? ''), 'close_ms', String(closeMs ?? '')],
    ...['limit', String(limitPerUser), 'paused', paused ? '1' : '0'],
    ...['price', String(priceMinor), 'currency', currency],
  ];
}
