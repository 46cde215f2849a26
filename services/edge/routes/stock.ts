import type { FastifyInstance } from 'fastify';
import type { DisplayStockMemory } from '../display-stock.ts';
import { jsonContentType } from '../http-server.ts';
import { Query } from '../query.ts';
import { displayStockJson } from '../stock-json.ts';

/** SKUs that one request may ask for; a page shows fewer. */
const skusMax = 100;

/** How much is left, from the edge's memory; for everybody. */
export function addStockRoutes(
  app: FastifyInstance,
  { displayStock }: { displayStock: DisplayStockMemory },
): void {
  app.get('/v1/stock', async (request, reply) => {
    const query = new Query(request.query, ['skuId']);
    const skuIds = query.ids('skuId', skusMax);
    query.done();
    const stocks = await displayStock.read(skuIds);
    reply.type(jsonContentType);
    return displayStockJson(stocks);
  });
}
