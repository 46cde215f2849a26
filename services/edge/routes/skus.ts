import type { FastifyInstance } from 'fastify';
import { jsonContentType } from '../http-server.ts';
import { Query, readPathId } from '../query.ts';
import type { StockGateway } from '../stock-gateway.ts';
import { skuJson, skuPageJson } from '../stock-json.ts';

const pageSizeMax = 100;

/** What is on sale; for everybody. */
export function addSkuRoutes(app: FastifyInstance, { stock }: { stock: StockGateway }): void {
  app.get('/v1/skus', async (request, reply) => {
    const query = new Query(request.query, ['pageSize', 'pageToken']);
    const pageSize = query.integer('pageSize', 1, pageSizeMax);
    const pageToken = query.string('pageToken');
    query.done();
    const page = await stock.skus(pageSize, pageToken);
    reply.type(jsonContentType);
    return skuPageJson(page);
  });

  app.get('/v1/skus/:id', async (request, reply) => {
    const sku = await stock.sku(readPathId(request.params, 'skuId'));
    reply.type(jsonContentType);
    return skuJson(sku);
  });
}
