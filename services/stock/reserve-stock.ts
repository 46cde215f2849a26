import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { DatabaseCircuit } from '../runtime/database-circuit.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { AdoptHolds } from './adopt-holds.ts';
import type { BusySkus } from './busy-skus.ts';
import { type PassGatesOptions, passGates } from './pass-gates.ts';
import { type PostAdmittedOptions, postAdmitted } from './post-admitted.ts';
import { dead, deductStatus, type Outcome, refused } from './reservation-outcomes.ts';
import { Reservations } from './reservations.ts';
import type { ReserveBatches } from './reserve-batches.ts';
import type { SkuCatalogue } from './sku-catalogue.ts';
import type { StockMetrics } from './stock-metrics.ts';
import type { UndoRefused } from './undo-refused.ts';

export interface ReserveStockOptions extends PassGatesOptions, PostAdmittedOptions {
  readonly batches: ReserveBatches;
  readonly undoRefused: UndoRefused;
  readonly adoptHolds: Pick<AdoptHolds, 'adopt'>;
  readonly catalogue: Pick<SkuCatalogue, 'absentAmong'>;
  readonly busySkus: Pick<BusySkus, 'refuses'>;
  readonly ledger: Pick<DatabaseCircuit, 'open'>;
  /** Orders being reserved at once at most. */
  readonly ordersInFlightMax: number;
  readonly metrics: StockMetrics;
}

export type ReserveStock = (
  reservations: readonly StockReservation[],
  deadline: Deadline,
) => Promise<Outcome[]>;

/**
 * Reserves the lines of many orders, each wholly or not at all: through the gates of its SKUs in
 * ascending order, then into the ledger. Redis admits, MySQL decides. What is not known to have
 * happened is answered as unknown and nothing of it is undone.
 *
 * @throws Refusal OVERLOADED if too many orders are being reserved; DEPENDENCY_DOWN if the ledger is
 *   away. Nothing was done then.
 */
export function createReserveStock(options: ReserveStockOptions): ReserveStock {
  let inFlight = 0;
  return async (entries, deadline) => {
    if (options.ledger.open) throw new Refusal('DEPENDENCY_DOWN', 'The ledger is away');
    if (inFlight + entries.length > options.ordersInFlightMax) throw new Refusal('OVERLOADED');
    inFlight += entries.length;
    try {
      const outcomes = await reserve(options, new Reservations(entries, deadline));
      for (const outcome of outcomes)
        options.metrics.deducted.inc({ status: deductStatus(outcome) });
      return outcomes;
    } finally {
      inFlight -= entries.length;
    }
  };
}

async function reserve(
  options: ReserveStockOptions,
  reservations: Reservations,
): Promise<Outcome[]> {
  await refuseAbsentSkus(options, reservations);
  refuseBusySkus(options, reservations);
  const admitted = await passGates(options, reservations);
  admitted.push(...(await options.adoptHolds.adopt(reservations)));
  if (admitted.length > 0) {
    await postAdmitted(options, reservations, admitted);
    // The gate was wrong about those that the ledger refused now.
    const adopted = await options.adoptHolds.adopt(reservations);
    if (adopted.length > 0) await postAdmitted(options, reservations, adopted);
  }
  await undo(options, reservations);
  return reservations.outcomes;
}

async function refuseAbsentSkus(
  { catalogue }: ReserveStockOptions,
  reservations: Reservations,
): Promise<void> {
  const absent = await catalogue.absentAmong(reservations.entries, reservations.deadline);
  if (absent === undefined || absent.size === 0) return;
  for (const [index, { lines }] of reservations.entries.entries()) {
    const line = lines.find(({ skuId }) => absent.has(skuId));
    if (!line) continue;
    const message = `There is no SKU ${line.skuId}`;
    reservations.answer(index, refused('NOT_FOUND', line.skuId, false, message));
  }
}

/** While a SKU's row is locked its orders would only take units at the gate, and wait in vain. */
function refuseBusySkus({ busySkus }: ReserveStockOptions, reservations: Reservations): void {
  for (const index of reservations.open) {
    const busy = reservations.at(index).lines.find(({ skuId }) => busySkus.refuses(skuId));
    if (busy === undefined) continue;
    const message = `SKU ${busy.skuId} is being changed: try again in a moment`;
    reservations.answer(index, refused('OVERLOADED', busy.skuId, false, message));
  }
}

/** Bars refused orders and gives back what they took; a copy may have brought one in meanwhile. */
async function undo(options: ReserveStockOptions, reservations: Reservations): Promise<void> {
  const { toUndo, deadline } = reservations;
  if (toUndo.length === 0) return;
  const undone = toUndo.map(({ index }) => ({
    reservation: reservations.at(index),
    linesPassed: reservations.gatesPassed(index),
  }));
  const fates = await options.undoRefused(undone, deadline);
  const held: number[] = [];
  for (const [at, { index, refusal }] of toUndo.entries()) {
    const fate = fates[at];
    if (fate === 'UNDONE') reservations.answer(index, refusal);
    else if (fate === 'DEAD') reservations.answer(index, dead);
    else if (fate === 'HELD') held.push(index);
  }
  // A copy of the request holds all lines under this very id, so they count as reserved here too.
  // Another refusal would have to be undone again: it stays unknown, and the loop settles it.
  if (held.length > 0) await postAdmitted(options, reservations, held);
}
