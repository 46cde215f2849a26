import type { Row } from '../stores.ts';
import { toldAll } from './states.ts';

// What all stores say of one order. Amounts and ids stay the texts that MySQL sent, times are DATETIME(3) texts, which
// sort by time: an audit reads millions of these and looks closely at few.

export interface OrderRow {
  /** Database and table it was found in, such as `0/03`. */
  readonly place: string;
  readonly userId: string;
  readonly status: number;
  readonly closeReason: number;
  readonly version: number;
  readonly totalMinor: string;
  readonly currency: string;
  readonly paymentId: string;
  readonly refundedMinor: string;
  readonly expireTime: string;
  readonly updateTime: string;
  readonly hasRequestId: boolean;
  /** Whether it is in the archive and no longer in its table. */
  readonly archived: boolean;
}

export interface ItemRow {
  readonly skuId: string;
  readonly quantity: number;
  readonly unitPriceMinor: string;
}

export interface TransitionRow {
  readonly version: number;
  readonly from: number;
  readonly to: number;
  readonly time: string;
}

export interface HoldRow {
  readonly skuId: string;
  readonly userId: string;
  readonly units: number;
  readonly unitPriceMinor: string;
  readonly currency: string;
  readonly state: number;
  readonly updateTime: string;
}

export interface PaymentRow {
  readonly paymentId: string;
  readonly userId: string;
  readonly status: number;
  readonly settlement: number;
  readonly amountMinor: string;
  readonly currency: string;
  readonly capturedMinor: string | null;
  readonly capturedCurrency: string | null;
  readonly expireTime: string;
  readonly nextTime: string | null;
  readonly updateTime: string;
}

export interface RefundRow {
  readonly refundId: string;
  readonly paymentId: string;
  readonly requestId: string;
  readonly amountMinor: string;
  readonly currency: string;
  readonly status: number;
  readonly restock: boolean;
  readonly told: boolean;
  readonly nextTime: string | null;
  readonly updateTime: string;
}

/** The order as the user statistics count it. */
export interface CountedRow {
  readonly version: number;
  readonly status: number;
  readonly totalMinor: string;
  readonly refundedMinor: string;
  readonly updateTime: string;
}

export interface MailRow {
  readonly attempts: number;
  readonly nextTime: string | null;
  readonly isSent: boolean;
  readonly createTime: string;
}

/** One line of the order in the warehouse. */
export interface FactRow {
  readonly skuId: string;
  readonly version: number;
  readonly status: string;
  readonly quantity: number;
  readonly unitPriceMinor: string;
  readonly totalMinor: string;
  readonly refundedMinor: string;
  readonly paymentId: string;
}

/** Everything that is stored under one order id. */
export class OrderPicture {
  readonly orderId: string;
  /** More than one only if something is wrong. */
  readonly orders: OrderRow[] = [];
  readonly items: ItemRow[] = [];
  readonly history: TransitionRow[] = [];
  readonly holds: HoldRow[] = [];
  readonly payments: PaymentRow[] = [];
  readonly refunds: RefundRow[] = [];
  readonly facts: FactRow[] = [];
  counted: CountedRow | undefined;
  mail: MailRow | undefined;

  constructor(orderId: string) {
    this.orderId = orderId;
  }

  get order(): OrderRow | undefined {
    return this.orders[0];
  }

  /** When anything of it last changed; empty if nothing tells. */
  newestChange(): string {
    let newest = '';
    for (const rows of [this.orders, this.holds, this.payments, this.refunds]) {
      for (const { updateTime } of rows) if (updateTime > newest) newest = updateTime;
    }
    if (this.mail !== undefined && this.mail.createTime > newest) newest = this.mail.createTime;
    if (this.counted !== undefined && this.counted.updateTime > newest) {
      newest = this.counted.updateTime;
    }
    return newest;
  }

  /** The whole content as text: two equal ones mean that nothing changed in between. */
  content(): string {
    return JSON.stringify(this);
  }
}

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
