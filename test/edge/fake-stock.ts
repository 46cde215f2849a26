import type { Sku } from '../../gen/sluice/stock/v1/sku.ts';
import { StockAdminServiceDefinition } from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import { StockServiceDefinition } from '../../gen/sluice/stock/v1/stock_service.ts';
import { type ServerService, service } from '../../services/runtime/grpc-server.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import type { Peers } from './peers.ts';

/** The one SKU that the fake knows. */
export const sku: Sku = {
  skuId: 7n,
  title: 'A "quoted" thing',
  unitPrice: { currencyCode: 'USD', minorUnits: 1_999n },
  openTime: undefined,
  closeTime: new Date('2027-02-01T00:00:00Z'),
  limitPerUser: 0,
  paused: false,
  settingsVersion: 1n,
  supplied: 10n,
  available: 7n,
  held: 3n,
  sold: 0n,
  epoch: 1n,
  createTime: new Date('2027-01-01T00:00:00Z'),
  updateTime: new Date('2027-01-01T00:00:00Z'),
};

/** Stock over real gRPC, as buyers see it. */
export function fakeStockService(peers: Peers): ServerService {
  const later = async (): Promise<never> => {
    throw new Error('not used by the edge');
  };
  return service(StockServiceDefinition, {
    reserveStock: later,
    releaseStock: later,
    async batchGetStock(request) {
      peers.note('batchGetStock', request);
      const { available } = peers;
      return {
        stocks: request.skuIds.map((skuId) => ({ skuId, loaded: true, available, paused: false })),
      };
    },
    async getSku(request) {
      peers.note('getSku', request);
      if (request.skuId !== sku.skuId) throw new Refusal('NOT_FOUND', 'There is no such SKU');
      return { sku };
    },
    async listSkus(request) {
      peers.note('listSkus', request);
      return {
        skus: [...peers.skus],
        nextPageToken: '',
        serverTime: new Date('2027-01-15T00:00:00Z'),
      };
    },
  });
}

/** Stock over real gRPC, as operators see it. */
export function fakeStockAdminService(peers: Peers): ServerService {
  return service(
    StockAdminServiceDefinition,
    {
      async createSku(request) {
        peers.note('createSku', request);
        return { sku: { ...sku, skuId: request.skuId } };
      },
      async updateSku(request) {
        peers.note('updateSku', request);
        return { sku };
      },
      async adjustStock(request) {
        peers.note('adjustStock', request);
        return { sku, replayed: true };
      },
      async rebuildStock(request) {
        peers.note('rebuildStock', request);
        return { epoch: 2n, available: 7n };
      },
      async getStockLayers(request) {
        peers.note('getStockLayers', request);
        return {
          gate: {
            loaded: true,
            available: 7n,
            pendingOrders: 0n,
            oldestPendingAgeMs: 0n,
            epoch: 1n,
            buyers: 2n,
            state: 'open',
          },
          ledger: sku,
        };
      },
    },
    { adminOnly: true },
  );
}
