import { Metadata } from 'nice-grpc';
import type { Sku } from '../../gen/sluice/stock/v1/sku.ts';
import {
  type AdjustStockRequest,
  type AdjustStockResponse,
  type CreateSkuRequest,
  type GetStockLayersResponse,
  type RebuildStockResponse,
  StockAdminServiceDefinition,
  type UpdateSkuRequest,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import {
  type DisplayStock,
  type ListSkusResponse,
  StockServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import {
  type CallPolicy,
  createGrpcClient,
  type GrpcClientOptions,
} from '../runtime/grpc-client.ts';
import { answeringInRequestFields } from './request-fields.ts';

const readDeadlineMs = 1_000;
const adminWriteDeadlineMs = 3_000;
/** Rebuilding a gate lets pending orders finish for a second first. */
const rebuildDeadlineMs = 3_800;

const read = { deadlineMs: readDeadlineMs, retry: true, readOnly: true, breaker: 'stock.read' };
const adminWrite = { deadlineMs: adminWriteDeadlineMs, retry: true, breaker: 'stock.admin' };

/** How the edge calls the stock service. */
const callTable = {
  getSku: read,
  listSkus: read,
  // Display stock is asked for by every page; its failures must not close the reads of SKUs.
  batchGetStock: { ...read, deadlineMs: 500, breaker: 'stock.display' },
} as const satisfies Record<string, CallPolicy>;

const adminCallTable = {
  createSku: adminWrite,
  updateSku: adminWrite,
  adjustStock: adminWrite,
  rebuildStock: { ...adminWrite, deadlineMs: rebuildDeadlineMs },
  getStockLayers: { ...read, breaker: 'stock.admin' },
} as const satisfies Record<string, CallPolicy>;

/** The reads of the stock service; every error is a Refusal. */
export interface StockGateway {
  sku(skuId: bigint): Promise<Sku>;
  skus(pageSize: number, pageToken: string): Promise<ListSkusResponse>;
  /** @param skuIds 1 to 500 */
  displayStock(skuIds: bigint[], deadline: Deadline): Promise<DisplayStock[]>;
  /** Whether a connection to the service is up. */
  connected(): boolean;
  close(): void;
}

/** The operators' calls; each forwards the operator's own token, which stock checks again. */
export interface StockAdminGateway {
  create(request: CreateSkuRequest, token: string): Promise<Sku>;
  update(request: UpdateSkuRequest, token: string): Promise<Sku>;
  adjust(request: AdjustStockRequest, token: string): Promise<AdjustStockResponse>;
  rebuild(skuId: bigint, token: string): Promise<RebuildStockResponse>;
  layers(skuId: bigint, token: string): Promise<GetStockLayersResponse>;
  close(): void;
}

type Options = Omit<GrpcClientOptions<never>, 'callTable'>;

export function createStockGateway(options: Options): StockGateway {
  const grpc = createGrpcClient(StockServiceDefinition, { ...options, callTable });
  const client = answeringInRequestFields(grpc.client);
  return {
    async sku(skuId) {
      return present((await client.getSku({ skuId })).sku);
    },
    skus: (pageSize, pageToken) => client.listSkus({ pageSize, pageToken }),
    async displayStock(skuIds, deadline) {
      return (await client.batchGetStock({ skuIds }, { deadline })).stocks;
    },
    connected: grpc.connected,
    close: grpc.close,
  };
}

export function createStockAdminGateway(options: Options): StockAdminGateway {
  const grpc = createGrpcClient(StockAdminServiceDefinition, {
    ...options,
    callTable: adminCallTable,
  });
  const client = answeringInRequestFields(grpc.client);
  const as = (token: string) => ({ metadata: Metadata({ authorization: `Bearer ${token}` }) });
  return {
    create: async (request, token) => present((await client.createSku(request, as(token))).sku),
    update: async (request, token) => present((await client.updateSku(request, as(token))).sku),
    adjust: (request, token) => client.adjustStock(request, as(token)),
    rebuild: (skuId, token) => client.rebuildStock({ skuId }, as(token)),
    layers: (skuId, token) => client.getStockLayers({ skuId }, as(token)),
    close: grpc.close,
  };
}

function present(sku: Sku | undefined): Sku {
  if (sku) return sku;
  throw new Error('the stock service answered without a SKU');
}
