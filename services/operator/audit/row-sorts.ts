import type { Row } from '../stores.ts';
import type { OrderPicture } from './order-picture.ts';
import { toldAll } from './states.ts';

/** How one sort of rows is read: its columns after `order_id`, and where a row goes. */
export interface RowSort {
  readonly columns: string;
  add(picture: OrderPicture, row: Row, place: string): void;
}

const text = (value: Row[number] | undefined): string => String(value);
const textOrNull = (value: Row[number] | undefined): string | null =>
  value === null || value === undefined ? null : String(value);

/** Orders; the first column of what `add` gets is `order_id`. */
export const orderRows: RowSort = {
  columns:
    'user_id, status, close_reason, version, total_minor, currency, payment_id, refunded_minor, ' +
    'CONCAT(expire_time), CONCAT(update_time), request_id IS NOT NULL',
  add(picture, row, place) {
    picture.orders.push({
      place,
      userId: text(row[1]),
      status: Number(row[2]),
      closeReason: Number(row[3]),
      version: Number(row[4]),
      totalMinor: text(row[5]),
      currency: text(row[6]),
      paymentId: text(row[7]),
      refundedMinor: text(row[8]),
      expireTime: text(row[9]),
      updateTime: text(row[10]),
      hasRequestId: Number(row[11]) === 1,
      archived: false,
    });
  },
};

export const archivedRows: RowSort = {
  columns:
    'user_id, status, close_reason, version, total_minor, currency, payment_id, refunded_minor, CONCAT(archive_time)',
  add(picture, row, place) {
    picture.orders.push({
      place,
      userId: text(row[1]),
      status: Number(row[2]),
      closeReason: Number(row[3]),
      version: Number(row[4]),
      totalMinor: text(row[5]),
      currency: text(row[6]),
      paymentId: text(row[7]),
      refundedMinor: text(row[8]),
      expireTime: '',
      updateTime: text(row[9]),
      hasRequestId: true,
      archived: true,
    });
  },
};

export const itemRows: RowSort = {
  columns: 'sku_id, quantity, unit_price_minor',
  add(picture, row) {
    const [, skuId, quantity, price] = row;
    picture.items.push({
      skuId: text(skuId),
      quantity: Number(quantity),
      unitPriceMinor: text(price),
    });
  },
};

export const transitionRows: RowSort = {
  columns: 'version, from_status, to_status, CONCAT(create_time)',
  add(picture, row) {
    const [, version, from, to, time] = row;
    picture.history.push({
      version: Number(version),
      from: Number(from),
      to: Number(to),
      time: text(time),
    });
  },
};

export const holdRows: RowSort = {
  columns: 'sku_id, user_id, units, unit_price_minor, currency, state, CONCAT(update_time)',
  add(picture, row) {
    picture.holds.push({
      skuId: text(row[1]),
      userId: text(row[2]),
      units: Number(row[3]),
      unitPriceMinor: text(row[4]),
      currency: text(row[5]),
      state: Number(row[6]),
      updateTime: text(row[7]),
    });
  },
};

export const paymentRows: RowSort = {
  columns:
    'payment_id, user_id, status, settlement, amount_minor, currency, captured_minor, captured_currency, ' +
    'CONCAT(expire_time), CONCAT(next_time), CONCAT(update_time)',
  add(picture, row) {
    picture.payments.push({
      paymentId: text(row[1]),
      userId: text(row[2]),
      status: Number(row[3]),
      settlement: Number(row[4]),
      amountMinor: text(row[5]),
      currency: text(row[6]),
      capturedMinor: textOrNull(row[7]),
      capturedCurrency: textOrNull(row[8]),
      expireTime: text(row[9]),
      nextTime: textOrNull(row[10]),
      updateTime: text(row[11]),
    });
  },
};

export const refundRows: RowSort = {
  columns:
    'r.refund_id, r.payment_id, CONVERT(r.request_id USING ascii), r.amount_minor, r.currency, r.status, r.restock, ' +
    'r.told, CONCAT(r.next_time), CONCAT(r.update_time)',
  add(picture, row) {
    picture.refunds.push({
      refundId: text(row[1]),
      paymentId: text(row[2]),
      requestId: text(row[3]),
      amountMinor: text(row[4]),
      currency: text(row[5]),
      status: Number(row[6]),
      restock: Number(row[7]) === 1,
      told: Number(row[8]) === toldAll,
      nextTime: textOrNull(row[9]),
      updateTime: text(row[10]),
    });
  },
};

export const countedRows: RowSort = {
  columns: 'version, status, total_minor, refunded_minor, CONCAT(update_time)',
  add(picture, row) {
    picture.counted = {
      version: Number(row[1]),
      status: Number(row[2]),
      totalMinor: text(row[3]),
      refundedMinor: text(row[4]),
      updateTime: text(row[5]),
    };
  },
};

export const mailRows: RowSort = {
  columns: 'attempts, CONCAT(next_time), sent_time IS NOT NULL, CONCAT(create_time)',
  add(picture, row) {
    picture.mail = {
      attempts: Number(row[1]),
      nextTime: textOrNull(row[2]),
      isSent: Number(row[3]) === 1,
      createTime: text(row[4]),
    };
  },
};

export const factRows: RowSort = {
  columns:
    'sku_id, version, status, quantity, unit_price_minor, order_total_minor, order_refunded_minor, payment_id',
  add(picture, row) {
    picture.facts.push({
      skuId: text(row[1]),
      version: Number(row[2]),
      status: text(row[3]),
      quantity: Number(row[4]),
      unitPriceMinor: text(row[5]),
      totalMinor: text(row[6]),
      refundedMinor: text(row[7]),
      paymentId: text(row[8]),
    });
  },
};
