import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';

// Whoever looks at /metrics sees each row of the blast radius, and every loop that stands.

const slow = { timeout: 300_000 };
let system: System;

before(async () => {
  system = await startSystem({ name: 'shown', payments: 1, events: true });
  await system.createSku({ skuId: 1n, supplied: 10n });
}, slow);
after(() => system?.close());

/** The loops of each service; what has a name of its own for each database or topic is written as a pattern. */
const loops = {
  order: [
    /^worker-lease$/,
    /^slot-map$/,
    /^clocks$/,
    /^outbox-guard$/,
    /^watch-orders$/,
    ...[0, 1].flatMap((database) => [
      new RegExp(`^relay\\.order_${database}$`),
      new RegExp(`^relay\\.order_${database}\\.waiting$`),
      new RegExp(`^expire\\.${database}$`),
      new RegExp(`^expire-begun\\.${database}$`),
      new RegExp(`^void-begun\\.${database}$`),
    ]),
  ],
  stock: [
    /^busy-skus$/,
    /^wait-for-skus$/,
    /^clock$/,
    /^gate-readiness$/,
    /^keeper$/,
    /^check-gates$/,
    /^audit-ledger$/,
    /^settle-pending$/,
    /^sweep-holds$/,
    /^recheck-holds$/,
    /^consumer of .*stock-ledger$/,
    /^lag of .*stock-ledger$/,
  ],
  payment: [
    /^record-payments$/,
    /^refunds$/,
    /^poll-sessions$/,
    /^webhooks-aside$/,
    /^watch-work$/,
  ],
  events: [
    /^confirmation mails$/,
    /^count of due mails$/,
    ...['user-statistics', 'warehouse', 'confirmation-mail'].flatMap((consumer) => [
      new RegExp(`^catch-up\\.${consumer}$`),
      new RegExp(`^consumer of .*${consumer}$`),
      new RegExp(`^lag of .*${consumer}$`),
    ]),
  ],
  edge: [],
} as const;
type Service = keyof typeof loops;

/** By which metrics an operator sees each row of the table "what one bad thing can do". */
const rows: Readonly<Record<string, Partial<Record<Service, readonly string[]>>>> = {
  'a locked or slow row of one SKU': {
    stock: ['stock_busy_skus', 'stock_deduct_total', 'stock_resync_lag_seconds'],
  },
  'a copy frozen, killed or slow': {
    edge: ['grpc_copies', 'grpc_calls_resent_total', 'circuit_breaker_state'],
    order: ['grpc_copies', 'circuit_breaker_state', 'loop_age_seconds'],
    stock: ['grpc_copies', 'loop_age_seconds'],
    payment: ['grpc_copies', 'circuit_breaker_state', 'loop_age_seconds'],
    events: ['grpc_copies', 'loop_age_seconds'],
  },
  'an order database dead or slow': {
    order: ['circuit_breaker_state', 'order_expiry_lag_seconds', 'outbox_age_seconds'],
    stock: ['stock_sweep_undecided', 'stock_sweep_lag_seconds'],
  },
  'what cannot take effect': {
    order: ['outbox_set_aside', 'outbox_rows', 'order_overdue', 'order_overdue_processing'],
    stock: [
      ...['stock_holds_set_aside', 'stock_recheck_mended_total', 'stock_pending_age_seconds'],
      ...['dead_letters_total', 'dead_letters_unwritten', 'events_failing', 'consumer_lag'],
    ],
    payment: [
      ...['payment_work_due', 'payment_work_age_seconds', 'payment_refund_total'],
      ...['payment_webhook_total', 'payment_close_total'],
    ],
    events: [
      ...['dead_letters_total', 'dead_letters_unwritten', 'events_failing', 'consumer_lag'],
      ...['catch_up_failed_total', 'mail_sent_total', 'mail_due'],
    ],
  },
  'a clock that steps': {
    order: ['clocks_judged', 'clock_ahead_seconds'],
    stock: ['clocks_judged', 'clock_ahead_seconds'],
  },
  'a greedy caller': {
    edge: ['refusals_total', 'batch_dropped_total', 'batch_queue_age_seconds'],
    order: ['refusals_total', 'batch_dropped_total', 'batch_queue_age_seconds'],
    stock: ['refusals_total', 'batch_dropped_total', 'batch_queue_age_seconds'],
  },
  'a hostile client': {
    edge: ['http_connections', 'http_connections_closed_total', 'edge_webhook_unfinished_bytes'],
    order: ['grpc_connections', 'grpc_streams', 'grpc_closed_total'],
    stock: ['grpc_connections', 'grpc_streams', 'grpc_closed_total'],
    payment: ['grpc_connections', 'grpc_streams', 'grpc_closed_total'],
  },
  overload: {
    edge: ['edge_orders_waiting', 'edge_webhooks_waiting', 'http_request_duration_seconds'],
    order: ['order_refused_at_door_total', 'order_admission_limit', 'order_under_way'],
  },
  'an odd answer about one payment': {
    order: ['order_overdue_processing'],
    payment: [
      ...['payment_provider_pace_per_second', 'payment_provider_turned_away_total'],
      ...['circuit_breaker_state', 'payment_work_age_seconds'],
    ],
  },
};

function processOf(service: Service): ServiceProcess {
  const found = system.processes.find((each) => each.service === service);
  assert.ok(found, service);
  return found;
}

async function metricsOf(service: Service): Promise<string> {
  const { metricsPort } = processOf(service);
  return await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
}

/** The ages of a process's loops, in seconds by their names. */
async function agesOf(service: Service): Promise<Map<string, number>> {
  const found = (await metricsOf(service)).matchAll(
    /^loop_age_seconds\{loop="([^"]+)"[^}]*\} (\S+)$/gm,
  );
  return new Map([...found].map(([, loop, age]) => [loop as string, Number(age)]));
}

for (const service of Object.keys(loops) as Service[]) {
  test(`every loop of ${service} shows its age, and no other does`, slow, async () => {
    const unmatched = async (): Promise<string[]> => {
      const names = [...(await agesOf(service)).keys()];
      const missing = loops[service].filter((each) => !names.some((name) => each.test(name)));
      const unknown = names.filter((name) => !loops[service].some((each) => each.test(name)));
      return [...missing.map(String), ...unknown];
    };
    assert.deepEqual(await unmatched(), []);
  });
}

for (const [row, services] of Object.entries(rows)) {
  test(`metrics show ${row}`, slow, async () => {
    for (const [service, names] of Object.entries(services)) {
      const text = await metricsOf(service as Service);
      const missing = names.filter((name) => !text.includes(`\n# TYPE ${name} `));
      assert.deepEqual(missing, [], service);
    }
  });
}

test('refusals are counted by their reason, those inside a batch too', slow, async () => {
  const counted = async (service: Service): Promise<number> => {
    const line = /^refusals_total\{reason="NOT_FOUND"[^}]*\} (\S+)$/m;
    return Number(line.exec(await metricsOf(service))?.[1] ?? 0);
  };
  const before = await counted('order');
  const lines = [{ skuId: 99_999n, quantity: 1 }];
  await assert.rejects(system.order().createOrder({ userId: 1n, requestId: 'none', lines }));
  const requests = [{ userId: 1n, requestId: 'none too', lines }];
  const { results } = await system.order().batchCreateOrders({ requests });
  assert.equal(results[0]?.outcome?.$case, 'refusal');
  assert.equal(await counted('order'), before + 2);
});

test('a frozen copy is seen by those who ask it', slow, async () => {
  const copies = async (state: string): Promise<number> => {
    const line = new RegExp(`^grpc_copies\\{state="${state}"[^}]*\\} (\\S+)$`, 'm');
    return Number(line.exec(await metricsOf('order'))?.[1]);
  };
  await eventually(
    async () => (await copies('silent')) === 0 && (await copies('away')) === 0,
    'all copies answer',
  );
  const all = await copies('answering');
  assert.ok(all >= 2, 'order asks stock and payment');
  const stock = processOf('stock').process;
  process.kill(stock.pid, 'SIGSTOP');
  try {
    await eventually(
      async () => (await copies('answering')) < all,
      'order sees that one is silent',
    );
  } finally {
    process.kill(stock.pid, 'SIGCONT');
  }
  await eventually(async () => (await copies('answering')) === all, 'order sees that it answers');
});

test('the loops that need Redis grow old while it is away, and young again', slow, async () => {
  const age = async (loop: string): Promise<number> =>
    (await agesOf('stock')).get(loop) ?? Number.NaN;
  const { pid } = system.redisServer;
  process.kill(pid, 'SIGSTOP');
  try {
    await eventually(async () => (await age('check-gates')) > 5, 'the check of the gates');
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await eventually(async () => (await age('check-gates')) < 5, 'the check of the gates works');
});
