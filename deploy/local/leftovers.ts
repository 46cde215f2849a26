import { stopByIdentity } from './process.ts';
import { forgetProcess, recordedProcesses } from './process-record.ts';
import { stopRank } from './supervisor.ts';

/** Stops what an earlier start began and could not stop (kill -9), by pid, and only if it is that very process. */
export async function stopLeftovers(runDir: string, say: (line: string) => void): Promise<void> {
  const leftovers = recordedProcesses(runDir);
  leftovers.sort((a, b) => stopRank(a.name) - stopRank(b.name));
  for (const { name, identity } of leftovers) {
    say(`  …  stopping ${name} (pid ${identity.pid}), left over from an earlier run`);
    await stopByIdentity(identity);
    forgetProcess(runDir, name);
  }
}
