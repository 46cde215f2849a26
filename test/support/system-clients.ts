import { createChannel, createClientFactory, Metadata } from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import {
  type OrderServiceClient,
  OrderServiceDefinition,
} from '../../gen/sluice/order/v1/order_service.ts';
import {
  type PaymentServiceClient,
  PaymentServiceDefinition,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import {
  type StockAdminServiceClient,
  StockAdminServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import {
  type StockServiceClient,
  StockServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import type { ServiceProcess } from './service-process.ts';
import type { SystemProcesses } from './system-processes.ts';

/** Clients of a system's processes; errors are `RichClientError`. */
export interface SystemClients {
  /** A client of the i-th order process. */
  order(index?: number): OrderServiceClient;
  /** A client of the i-th payment process, with the role of operators. */
  payment(index?: number): PaymentServiceClient;
  readonly stock: StockServiceClient;
  /** With the role of operators. */
  readonly admin: StockAdminServiceClient;
  closeChannels(): void;
}

export function connectClients({ orders, payments, stocks }: SystemProcesses): SystemClients {
  const { token } = createTokens({ secret: demoTokenSecret }).sign({
    userId: 1n,
    role: 'admin',
    ttlSeconds: 3_600,
  });
  const asAdmin = { '*': { metadata: Metadata({ authorization: `Bearer ${token}` }) } };
  const factory = createClientFactory().use(errorDetailsClientMiddleware);
  const channelOf = ({ port }: ServiceProcess) =>
    createChannel(`127.0.0.1:${port}`, undefined, { 'grpc.use_local_subchannel_pool': 1 });
  const orderChannels = orders.map(channelOf);
  const paymentChannels = payments.map(channelOf);
  const stockChannel = channelOf(stocks[0] as ServiceProcess);
  const orderClients = orderChannels.map(
    (channel) => factory.create(OrderServiceDefinition, channel) as OrderServiceClient,
  );
  const paymentClients = paymentChannels.map(
    (channel) => factory.create(PaymentServiceDefinition, channel, asAdmin) as PaymentServiceClient,
  );
  return {
    order: (index = 0) => orderClients[index] as OrderServiceClient,
    payment: (index = 0) => paymentClients[index] as PaymentServiceClient,
    stock: factory.create(StockServiceDefinition, stockChannel) as StockServiceClient,
    admin: factory.create(
      StockAdminServiceDefinition,
      stockChannel,
      asAdmin,
    ) as StockAdminServiceClient,
    closeChannels() {
      for (const channel of [...orderChannels, ...paymentChannels, stockChannel]) channel.close();
    },
  };
}
