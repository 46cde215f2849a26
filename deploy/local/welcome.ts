import type { ServerAddresses } from './servers.ts';
import { hostToReach } from './services.ts';
import type { LocalSettings } from './settings.ts';

/** What is printed when everything runs: where things are, and an order to paste. */
export function welcome(
  settings: LocalSettings,
  addresses: ServerAddresses,
  token: string,
): string {
  const { edge, order, stock, payment, events, simulator } = settings.servicePorts;
  const host = hostToReach(settings.listen);
  const edgeUrl = `http://${host}:${edge.port}`;
  return `
Sluice runs. Ctrl-C stops it.

  HTTP        ${edgeUrl}/v1/skus
  gRPC        order ${host}:${order.port}   stock ${host}:${stock.port}   payment ${host}:${payment.port}   (reflection and health on each)
  metrics     edge http://127.0.0.1:${edge.metrics.port}/metrics   order :${order.metrics.port}   stock :${stock.metrics.port}   payment :${payment.metrics.port}   events :${events.metrics.port}
  provider    http://${host}:${simulator.port}   (a payment provider to play with)
  mails       ${settings.mailDir}   (what arrives at smtp://127.0.0.1:${settings.mailPort.port})
  servers     ${withoutPassword(addresses.redisUrl)}   ${withoutPassword(addresses.mysqlUrls)}   kafka ${addresses.kafkaBrokers}
  logs        ${settings.logsDir}

Demo token of user 1001:
${token}

Place an order (paste it twice: the second answers the same order):
curl -i ${edgeUrl}/v1/orders \\
  -H 'Authorization: Bearer ${token}' \\
  -H 'Idempotency-Key: my-first-order' \\
  -H 'Content-Type: application/json' \\
  -d '{"lines":[{"skuId":"1","quantity":1}]}'

Pay it: put the answer's orderId in place of ORDER_ID and open the paymentUrl that comes back in a browser:
curl -X POST ${edgeUrl}/v1/orders/ORDER_ID/payments \\
  -H 'Authorization: Bearer ${token}' \\
  -H 'Idempotency-Key: my-first-payment'

What became of it, and whether every promise holds:
./sluice explain ORDER_ID
./sluice audit
`;
}

function withoutPassword(urls: string): string {
  return urls.replaceAll(/:[^:@/,]*@/g, ':***@');
}
