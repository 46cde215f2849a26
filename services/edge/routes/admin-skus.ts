import type { FastifyInstance } from 'fastify';
import { type Authentication, callerOf } from '../authentication.ts';
import { jsonContentType } from '../http-server.ts';
import { readNoFields } from '../json-fields.ts';
import { readPathId } from '../query.ts';
import {
  readAdjustStockRequest,
  readCreateSkuRequest,
  readUpdateSkuRequest,
} from '../sku-requests.ts';
import type { StockAdminGateway } from '../stock-gateway.ts';
import { adjustmentJson, rebuiltJson, skuJson, stockLayersJson } from '../stock-json.ts';

/** Operators' work on SKUs; the operator's own token goes along, and stock checks the role again. */
export function addAdminSkuRoutes(
  app: FastifyInstance,
  { admin, authentication }: { admin: StockAdminGateway; authentication: Authentication },
): void {
  const onRequest = authentication.admin;

  app.post('/v1/admin/skus', { onRequest }, async (request, reply) => {
    const sku = await admin.create(readCreateSkuRequest(request.body), callerOf(request).token);
    reply.code(201).header('location', `/v1/skus/${sku.skuId}`).type(jsonContentType);
    return skuJson(sku);
  });

  app.patch('/v1/admin/skus/:id', { onRequest }, async (request, reply) => {
    const skuId = readPathId(request.params, 'skuId');
    const change = readUpdateSkuRequest(skuId, request.body);
    const sku = await admin.update(change, callerOf(request).token);
    reply.type(jsonContentType);
    return skuJson(sku);
  });

  app.post('/v1/admin/skus/:id/adjust', { onRequest }, async (request, reply) => {
    const skuId = readPathId(request.params, 'skuId');
    const key = request.headers['idempotency-key'];
    const adjustment = readAdjustStockRequest(skuId, key, request.body);
    const response = await admin.adjust(adjustment, callerOf(request).token);
    reply.type(jsonContentType);
    if (response.replayed) reply.header('idempotent-replayed', 'true');
    return adjustmentJson(response);
  });

  app.post('/v1/admin/skus/:id/rebuild', { onRequest }, async (request, reply) => {
    const skuId = readPathId(request.params, 'skuId');
    readNoFields(request.body);
    const rebuilt = await admin.rebuild(skuId, callerOf(request).token);
    reply.type(jsonContentType);
    return rebuiltJson(rebuilt);
  });

  app.get('/v1/admin/skus/:id/layers', { onRequest }, async (request, reply) => {
    const skuId = readPathId(request.params, 'skuId');
    const layers = await admin.layers(skuId, callerOf(request).token);
    reply.type(jsonContentType);
    return stockLayersJson(layers);
  });
}
