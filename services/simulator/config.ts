import { readEnv, type Variables } from '../runtime/env.ts';
import { type LogLevel, logLevels } from '../runtime/log.ts';

/** Settings of the simulated payment provider. */
export interface SimulatorConfig {
  /** Host that the API and the payment page listen on. */
  readonly listen: string;
  /** 0 lets the system choose. */
  readonly port: number;
  readonly metricsPort: number;
  /** A SQLite file, or `:memory:`. With a file a restart forgets nothing, not even a webhook under way. */
  readonly dataFile: string;
  /** What callers of the API show as bearer token. */
  readonly apiKey: string;
  /** Where webhooks go. */
  readonly webhookUrl: string;
  /** What webhooks are signed with: the first of the keys that the payment service accepts. */
  readonly webhookKey: string;
  /** Where a buyer's browser reaches the payment page; empty: this machine, at the port listened on. */
  readonly pageUrl: string;
  readonly logLevel: LogLevel;
}

/** Reads the settings; the only place where the simulator looks at its environment. @throws ConfigError */
export function readConfig(variables: Variables): Readonly<SimulatorConfig> {
  return readEnv(variables, (env) => {
    const demo = env.boolean('SLUICE_DEMO', false);
    const pageUrl = env.string('SLUICE_SIMULATOR_PAGE_URL', '');
    return {
      listen: env.string('SLUICE_LISTEN', '127.0.0.1'),
      port: env.port('SLUICE_SIMULATOR_PORT', 8_090),
      metricsPort: env.port('SLUICE_SIMULATOR_METRICS_PORT', 9_469),
      dataFile: env.string('SLUICE_SIMULATOR_DATA', ':memory:'),
      apiKey: env.secret('SLUICE_SIMULATOR_API_KEY', demo),
      webhookUrl: env.httpUrl(
        'SLUICE_SIMULATOR_WEBHOOK_URL',
        'http://127.0.0.1:8080/v1/webhooks/simulator',
      ),
      webhookKey: env.secrets('SLUICE_PAYMENT_WEBHOOK_KEYS', demo)[0] ?? '',
      pageUrl: pageUrl === '' ? '' : env.httpUrl('SLUICE_SIMULATOR_PAGE_URL', ''),
      logLevel: env.choice('SLUICE_LOG_LEVEL', logLevels, 'info'),
    };
  });
}
