/** What a process knows of one copy of a service that it asks. */
export type CopyState = 'answering' | 'silent' | 'away';

const sources = new Set<() => readonly CopyState[]>();

/** Shows the states of some copies from now on. @returns what ends it */
export function showCopies(source: () => readonly CopyState[]): () => void {
  sources.add(source);
  return () => sources.delete(source);
}

/** How many copies of all services are in each state, as this process sees them; each client counts its own. */
export function copyStates(): Readonly<Record<CopyState, number>> {
  const counts = { answering: 0, silent: 0, away: 0 };
  for (const source of sources) for (const state of source()) counts[state] += 1;
  return counts;
}
