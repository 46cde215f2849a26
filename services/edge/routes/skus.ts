import type { FastifyInstance } from 'fastify';
import { jsonContentType } from '../http-server.ts';
import { Query, readPathId } from '../query.ts';
import type { SkuMemory } from '../sku-memory.ts';

const pageSizeMax = 100;

/** What is on sale, from the edge's memory; for everybody. */
export function addSkuRoutes(app: FastifyInstance, { skus }: { skus: SkuMemory }): void {
  app.get('/v1/skus', async (request, reply) => {
    const query = new Query(request.query, ['pageSize', 'pageToken']);
    const pageSize = query.integer('pageSize', 1, pageSizeMax);
    const pageToken = query.string('pageToken');
    query.done();
    const page = await skus.page(pageSize, pageToken);
    reply.type(jsonContentType);
    return page;
  });

  app.get('/v1/skus/:id', async (request, reply) => {
    const sku = await skus.sku(readPathId(request.params, 'skuId'));
    reply.type(jsonContentType);
    return sku;
  });
}
