import type { Log } from '../../../runtime/log.ts';
import type { PaymentProvider } from '../../provider.ts';

export interface StripeSettings {
  readonly apiKey: string;
  readonly apiUrl: string;
  readonly pageUrl: string;
  readonly webhookKeys: readonly string[];
}

export function createStripeProvider(_settings: StripeSettings, _log: Log): PaymentProvider {
  throw new Error('not built yet');
}
