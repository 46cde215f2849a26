import { Metadata } from 'nice-grpc';
import { StockAdminServiceDefinition } from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import { createGrpcClient } from '../runtime/grpc-client.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OperatorConfig } from './config.ts';
import { CouldNotLook } from './could-not-look.ts';

/** One SKU's gate beside the ledger, at one moment. */
export interface Gate {
  readonly loaded: boolean;
  readonly state: string;
  readonly available: bigint;
  readonly ledgerAvailable: bigint;
  readonly pendingOrders: bigint;
  readonly oldestPendingAgeMs: bigint;
  readonly epoch: bigint;
}

export interface GateReader {
  /** @throws CouldNotLook */
  read(skuId: string): Promise<Gate>;
  close(): void;
}

const callTable = {
  getStockLayers: { deadlineMs: 5_000, retry: true, breaker: 'stock.layers', readOnly: true },
} as const;

/** Reads gates through the stock service, the only one that talks to Redis. */
export function connectGates(config: OperatorConfig, log: Log): GateReader {
  const addresses = config.stockAddresses;
  const stock = createGrpcClient(StockAdminServiceDefinition, { addresses, callTable, log });
  return {
    async read(skuId) {
      if (config.adminToken === undefined) throw new CouldNotLook(config.tokenMissing);
      const metadata = Metadata({ authorization: `Bearer ${config.adminToken}` });
      try {
        const request = { skuId: BigInt(skuId) };
        const { gate, ledger } = await stock.client.getStockLayers(request, { metadata });
        return {
          loaded: gate?.loaded ?? false,
          state: gate?.state ?? 'unknown',
          available: gate?.available ?? 0n,
          ledgerAvailable: ledger?.available ?? 0n,
          pendingOrders: gate?.pendingOrders ?? 0n,
          oldestPendingAgeMs: gate?.oldestPendingAgeMs ?? 0n,
          epoch: gate?.epoch ?? 0n,
        };
      } catch (error) {
        throw failureOf(error, addresses.join(','));
      }
    },
    close: () => stock.close(),
  };
}

function failureOf(error: unknown, address: string): Error {
  if (!(error instanceof Refusal)) return error as Error;
  const { reason, message } = error;
  if (reason === 'UNAUTHENTICATED' || reason === 'FORBIDDEN') {
    return new CouldNotLook(
      `The stock service at ${address} refuses the token (${message}): set SLUICE_TOKEN to one with the role admin, or SLUICE_TOKEN_SECRET to the services' secret.`,
      error,
    );
  }
  return new CouldNotLook(
    `The stock service at ${address} does not answer (${message}): is it running, and is SLUICE_STOCK_ADDRESS right?`,
    error,
  );
}
