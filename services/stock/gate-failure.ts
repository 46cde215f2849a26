import { Refusal } from '../runtime/refusals.ts';

/** Error replies of a server that is no master, or no longer one: it keeps its connections and refuses all writes. */
const noMaster = /^(READONLY|MASTERDOWN|NOREPLICAS)\b/;

/** Whether an error shows that the connection leads to a server that takes no writes. */
export function isNoMaster(error: Error): boolean {
  return noMaster.test(error.message);
}

/** Error replies with which Redis refuses a command before it does anything. */
const refusedBefore =
  /^(LOADING|READONLY|OOM|MISCONF|BUSY|NOAUTH|NOPERM|CLUSTERDOWN|MASTERDOWN|MOVED|ASK|TRYAGAIN|NOREPLICAS|WRONGPASS)\b/;

/** What a failed command means: DEPENDENCY_DOWN if it surely did nothing, else OUTCOME_UNKNOWN. */
export function gateFailure(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  const neverSent = message.startsWith("Stream isn't writeable");
  if (neverSent || (name === 'ReplyError' && refusedBefore.test(message))) {
    return new Refusal('DEPENDENCY_DOWN', 'Redis is away', { cause: error });
  }
  return new Refusal('OUTCOME_UNKNOWN', 'Redis did not answer', { cause: error });
}
