import type { EnvReader } from '../../runtime/env.ts';
import type { Log } from '../../runtime/log.ts';
import type { PaymentProvider } from '../provider.ts';
import { createSimulatorProvider, type SimulatorSettings } from './simulator/simulator-provider.ts';
import { createStripeProvider, type StripeSettings } from './stripe/stripe-provider.ts';

/** Which provider takes the money, and how it is reached. */
export type ProviderSettings =
  | ({ readonly kind: 'simulator' } & SimulatorSettings)
  | ({ readonly kind: 'stripe' } & StripeSettings);

/** Reads the settings of the provider that is chosen, and only those: the other's secrets need not exist. */
export function readProviderSettings(env: EnvReader): ProviderSettings {
  const demo = env.boolean('SLUICE_DEMO', false);
  const kind = env.choice('SLUICE_PAYMENT_PROVIDER', ['simulator', 'stripe'], 'simulator');
  // Stripe knows no public demo secrets, and whoever knows the key of its webhooks pays with words: no defaults there.
  const webhookKeys = env.secrets('SLUICE_PAYMENT_WEBHOOK_KEYS', demo && kind === 'simulator');
  if (kind === 'simulator') {
    return {
      kind,
      webhookKeys,
      url: env.httpUrl('SLUICE_SIMULATOR_URL', 'http://127.0.0.1:8090'),
      apiKey: env.secret('SLUICE_SIMULATOR_API_KEY', demo),
    };
  }
  return {
    kind,
    webhookKeys,
    apiKey: env.secret('SLUICE_STRIPE_API_KEY', false),
    apiUrl: env.httpUrl('SLUICE_STRIPE_API_URL', 'https://api.stripe.com'),
    pageUrl: env.httpUrl('SLUICE_STRIPE_PAGE_URL', 'http://127.0.0.1:8080/pay'),
  };
}

/** Builds the client of the provider; opens no connection before the first call. */
export function createProvider(settings: ProviderSettings, log: Log): PaymentProvider {
  if (settings.kind === 'simulator') return createSimulatorProvider(settings, log);
  return createStripeProvider(settings, log);
}
