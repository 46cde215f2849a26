import type {
  ReleaseStockResponse,
  ReservationResult,
  ReserveStockRequest,
  StockRelease,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { StockServiceDefinition } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { type ServerService, service } from '../runtime/grpc-server.ts';
import type { JudgedTime } from '../runtime/judged-time.ts';
import { invalidRequest, Refusal } from '../runtime/refusals.ts';
import type { GateConnection } from './gate-connection.ts';
import { readGates } from './gate-view.ts';
import type { OrderMove } from './ledger-moves.ts';
import { HoldsBusy, type ReleaseStock } from './release-stock.ts';
import { isRequestId, RequestFields } from './request-fields.ts';
import { type Outcome, refused } from './reservation-outcomes.ts';
import { reservationFault, reservationsMax } from './reserve-request.ts';
import type { ReserveStock } from './reserve-stock.ts';
import { skuMessage } from './sku-message.ts';
import type { SkuReads } from './sku-reads.ts';

const releasesMax = 500;
const releaseSkusMax = 20;
const displayMax = 500;
const pageSizeDefault = 50;
const pageSizeMax = 100;

/** The RPCs of `StockService`: requests to use cases, and their answers back. */
export function createStockService({
  skuReads,
  time,
  connection,
  reserveStock,
  releaseStock,
}: {
  readonly skuReads: SkuReads;
  readonly time: JudgedTime;
  readonly connection: GateConnection;
  readonly reserveStock: ReserveStock;
  readonly releaseStock: ReleaseStock;
}): ServerService {
  return service(StockServiceDefinition, {
    async reserveStock(request, { deadline }) {
      const results = await reserve(request, reserveStock, deadline);
      if (failpoints.on) await failpoints.hit('stock.before_reply', { orders: results.length });
      return { results };
    },

    async releaseStock({ releases }, { deadline }) {
      checkReleases(releases);
      const moves = releases.map((release): OrderMove => {
        const { orderId, skuIds, userId, requestId } = release;
        return { orderId, move: 'RELEASE', fenceSkuIds: skuIds, userId, requestId };
      });
      return await release(moves, releaseStock, deadline);
    },

    async batchGetStock({ skuIds }) {
      const fields = new RequestFields();
      fields.integer('sku_ids', skuIds.length, 1, displayMax);
      for (const [index, skuId] of skuIds.entries()) fields.id(`sku_ids[${index}]`, skuId);
      throwIfWrong(fields);
      const views = await readGates(connection, skuIds);
      const stocks = views.map(({ loaded, available = 0, paused }, index) => {
        const skuId = skuIds[index] as bigint;
        return { skuId, loaded, available: BigInt(Math.max(0, available)), paused };
      });
      return { stocks };
    },

    async getSku({ skuId }, { deadline }) {
      const fields = new RequestFields();
      fields.id('sku_id', skuId);
      throwIfWrong(fields);
      const sku = await skuReads.get(skuId, deadline);
      if (!sku) throw new Refusal('NOT_FOUND', `There is no SKU ${skuId}`, { skuId });
      return { sku: skuMessage(sku) };
    },

    async listSkus({ pageSize, pageToken }, { deadline }) {
      const fields = new RequestFields();
      fields.integer('page_size', pageSize, 0, pageSizeMax);
      const after = pageToken === '' ? 0n : readPageToken(pageToken);
      if (after === undefined) fields.add('page_token', 'must come from the page before');
      throwIfWrong(fields);
      const max = pageSize || pageSizeDefault;
      const found = await skuReads.list({ after: after ?? 0n, max: max + 1 }, deadline);
      const page = found.slice(0, max);
      const last = page.at(-1);
      return {
        skus: page.map(skuMessage),
        nextPageToken: found.length > max && last ? writePageToken(last.skuId) : '',
        serverTime: new Date(time.nowMs() ?? Date.now()),
      };
    },
  });
}

async function reserve(
  { reservations }: ReserveStockRequest,
  reserveStock: ReserveStock,
  deadline: Deadline,
): Promise<ReservationResult[]> {
  const fields = new RequestFields();
  fields.integer('reservations', reservations.length, 1, reservationsMax);
  throwIfWrong(fields);
  const faults = reservations.map(reservationFault);
  if (faults.every((fault) => fault === undefined)) {
    return (await reserveStock(reservations, deadline)).map((outcome) => ({ outcome }));
  }
  // One wrong entry must not cost the others theirs.
  const right = reservations.filter((_, index) => faults[index] === undefined);
  const outcomes = right.length > 0 ? await reserveStock(right, deadline) : [];
  let at = 0;
  return faults.map((fault): ReservationResult => {
    if (fault !== undefined) return { outcome: refused('INVALID_REQUEST', 0n, false, fault) };
    at += 1;
    return { outcome: outcomes[at - 1] as Outcome };
  });
}

/** One order whose rows are locked must not cost the others their answers. */
async function release(
  moves: readonly OrderMove[],
  releaseStock: ReleaseStock,
  deadline: Deadline,
): Promise<ReleaseStockResponse> {
  try {
    const releasedUnits = await releaseStock.release(moves, { forgetRequests: true }, deadline);
    return { releasedUnits, lockedOrderIds: [] };
  } catch (error) {
    if (!(error instanceof HoldsBusy)) throw error;
    return { releasedUnits: [...error.units], lockedOrderIds: [...error.orderIds] };
  }
}

function checkReleases(releases: readonly StockRelease[]): void {
  const fields = new RequestFields();
  fields.integer('releases', releases.length, 1, releasesMax);
  for (const [index, { orderId, skuIds, userId, requestId }] of releases.entries()) {
    const at = `releases[${index}]`;
    fields.id(`${at}.order_id`, orderId);
    fields.integer(`${at}.sku_ids`, skuIds.length, 0, releaseSkusMax);
    for (const [skuIndex, skuId] of skuIds.entries())
      fields.id(`${at}.sku_ids[${skuIndex}]`, skuId);
    if (userId < 0n) fields.add(`${at}.user_id`, 'must not be negative');
    if (requestId !== '' && !isRequestId(requestId))
      fields.requestId(`${at}.request_id`, requestId);
  }
  throwIfWrong(fields);
}

function throwIfWrong({ violations }: RequestFields): void {
  if (violations.length > 0) throw invalidRequest(violations);
}

function writePageToken(skuId: bigint): string {
  return Buffer.from(`sku:${skuId}`).toString('base64url');
}

function readPageToken(token: string): bigint | undefined {
  const text = Buffer.from(token, 'base64url').toString('latin1');
  const digits = /^sku:([1-9]\d{0,18})$/.exec(text)?.[1];
  return digits === undefined ? undefined : BigInt(digits);
}
