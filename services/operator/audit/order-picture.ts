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
