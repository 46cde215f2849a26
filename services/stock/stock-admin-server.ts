import {
  GateLayer,
  StockAdminServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { type ServerService, service } from '../runtime/grpc-server.ts';
import type { Log } from '../runtime/log.ts';
import type { Pool } from '../runtime/mysql.ts';
import { isBusinessRefusal, Refusal } from '../runtime/refusals.ts';
import { checkAdjustment, checkSkuId, newSkuOf, skuChangesOf } from './admin-requests.ts';
import type { Gate } from './gate.ts';
import { countBuyers } from './gate-buyers.ts';
import type { GateConnection } from './gate-connection.ts';
import { type GateView, readGates } from './gate-view.ts';
import { adjustStock, createSku, updateSku } from './ledger-admin.ts';
import { gateSettings, readSkus, type SkuRow } from './ledger-skus.ts';
import type { ResyncQueue } from './resync-queue.ts';
import type { SkuCatalogue } from './sku-catalogue.ts';
import { skuMessage } from './sku-message.ts';
import type { SkuReads } from './sku-reads.ts';

/** Opening a new gate is waited for this long; the check of the gates does it otherwise. */
const openMs = 2_000;

/** The RPCs of `StockAdminService`. The ledger is moved first; the gate follows, now or by the loop. */
export function createStockAdminService(parts: {
  readonly pool: Pool;
  readonly gate: Gate;
  readonly connection: GateConnection;
  readonly catalogue: SkuCatalogue;
  readonly resyncs: ResyncQueue;
  readonly skuReads: Pick<SkuReads, 'forget'>;
  readonly log: Log;
}): ServerService {
  const { pool, connection, catalogue, resyncs, skuReads } = parts;
  const implementation = {
    async createSku(request: Parameters<typeof newSkuOf>[0], { deadline }: WithDeadline) {
      const sku = await createSku(pool, newSkuOf(request), deadline);
      catalogue.add([sku.skuId]);
      if (sku.epoch === 0n) await openGate(parts, sku, deadline);
      skuReads.forget(sku.skuId);
      return { sku: skuMessage(await readSku(pool, sku.skuId, deadline)) };
    },

    async updateSku(request: Parameters<typeof skuChangesOf>[0], { deadline }: WithDeadline) {
      const changes = skuChangesOf(request);
      const sku = await updateSku(pool, request.skuId, changes, deadline);
      skuReads.forget(sku.skuId);
      await copySettings(parts, sku);
      return { sku: skuMessage(sku) };
    },

    async adjustStock(request: Parameters<typeof checkAdjustment>[0], { deadline }: WithDeadline) {
      checkAdjustment(request);
      const { sku, replayed } = await adjustStock(pool, request, deadline);
      skuReads.forget(sku.skuId);
      if (!replayed) await adjustGate(parts, sku, request.delta);
      return { sku: skuMessage(sku), replayed };
    },

    async rebuildStock({ skuId }: { skuId: bigint }, { deadline }: WithDeadline) {
      checkSkuId(skuId);
      await readSku(pool, skuId, deadline);
      return await resyncs.rebuild(skuId, 'operator', deadline);
    },

    async getStockLayers({ skuId }: { skuId: bigint }, { deadline }: WithDeadline) {
      checkSkuId(skuId);
      const sku = await readSku(pool, skuId, deadline);
      const gate = await readGateLayer(connection, skuId);
      return { gate, ledger: skuMessage(sku) };
    },
  };
  return service(StockAdminServiceDefinition, implementation, { adminOnly: true });
}

/** While Redis is away an operator still sees the ledger, beside a gate that cannot be reached. */
async function readGateLayer(connection: GateConnection, skuId: bigint): Promise<GateLayer> {
  try {
    const [view] = (await readGates(connection, [skuId])) as [GateView];
    const { loaded, state, available = 0, epoch, pendingOrders, oldestPendingMs } = view;
    const now = connection.saleNowMs();
    const oldestPendingAgeMs = Math.max(0, Math.round(now - (oldestPendingMs ?? now)));
    return {
      ...{ loaded, state, available: BigInt(available), epoch: epoch < 0n ? 0n : epoch },
      pendingOrders: BigInt(pendingOrders),
      oldestPendingAgeMs: BigInt(oldestPendingAgeMs),
      buyers: BigInt(await countBuyers(connection, skuId)),
    };
  } catch (error) {
    const away = error instanceof Refusal && !isBusinessRefusal(error);
    if (!away) throw error;
    return GateLayer.fromPartial({ loaded: false, state: 'unreachable' });
  }
}

interface WithDeadline {
  readonly deadline: Deadline;
}

async function readSku(pool: Pool, skuId: bigint, deadline: Deadline): Promise<SkuRow> {
  const [sku] = await readSkus(pool, [skuId], deadline);
  if (!sku) throw new Refusal('NOT_FOUND', `There is no SKU ${skuId}`, { skuId });
  return sku;
}

async function openGate(
  { resyncs, log }: { resyncs: ResyncQueue; log: Log },
  { skuId }: SkuRow,
  deadline: Deadline,
): Promise<void> {
  try {
    await resyncs.rebuild(skuId, 'new_sku', deadline.min(openMs));
  } catch (error) {
    log.warn({ err: error }, 'a new gate is not open yet');
  }
}

/** The check of the gates copies settings again until the gate has them. */
async function copySettings({ gate, log }: { gate: Gate; log: Log }, sku: SkuRow): Promise<void> {
  try {
    await gate.applySettings(sku.skuId, gateSettings(sku));
  } catch (error) {
    log.warn({ err: error }, 'settings are not copied to the gate yet');
  }
}

/** A credit that is lost, or comes in the middle of an installation, is healed as a contradiction. */
async function adjustGate(
  { gate, resyncs, log }: { gate: Gate; resyncs: ResyncQueue; log: Log },
  { skuId, epoch }: SkuRow,
  delta: bigint,
): Promise<void> {
  try {
    const result = await gate.adjust(skuId, epoch, delta);
    if (result === 'GATE_OLDER') resyncs.request(skuId, 'old_epoch');
  } catch (error) {
    log.warn({ err: error }, 'an adjustment has not reached the gate');
  }
}
