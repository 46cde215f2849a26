import { ConfigError } from './env.ts';
import { failpoints } from './failpoints.ts';
import { Lifecycle } from './lifecycle.ts';
import { createLog, type Log, type LogLevel } from './log.ts';

/** What every service's settings have. */
export interface ServiceSettings {
  /** Where a test breaks the process; empty means nowhere. */
  readonly failpoints: string;
  readonly logLevel: LogLevel;
}

/**
 * The beginning of every service: sets its failpoints, makes its log, and starts its parts. What was
 * started is stopped again if a part cannot start.
 *
 * @param log what a test gives in place of the service's own
 * @throws ConfigError if the failpoints cannot be read; else what `start` threw
 */
export async function startService<Running>(
  name: string,
  settings: ServiceSettings,
  log: Log | undefined,
  start: (log: Log, lifecycle: Lifecycle) => Promise<Running>,
): Promise<Running> {
  const wrong = failpoints.configure(settings.failpoints);
  if (wrong.length > 0) throw new ConfigError([`SLUICE_FAILPOINTS: not understood: ${wrong}`]);
  const ownLog = log ?? createLog(name, settings.logLevel);
  const lifecycle = new Lifecycle(ownLog);
  try {
    return await start(ownLog, lifecycle);
  } catch (error) {
    await lifecycle.stop();
    throw error;
  }
}
