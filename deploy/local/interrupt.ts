/** npm passes a Ctrl-C on although the terminal has sent it to everybody already: what follows this soon is the same one. */
const sameInterruptMs = 1_000;

export type InterruptHandlers = {
  /** The first request to end: Ctrl-C, SIGTERM or a closed terminal. */
  onFirst: (signal: NodeJS.Signals) => void;
  /** Another one, at least a second later: the person does not want to wait. */
  onAgain: () => void;
};

/** Returns the function that takes the handlers off again. */
export function handleInterrupts({ onFirst, onAgain }: InterruptHandlers): () => void {
  let firstAt: number | undefined;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (firstAt === undefined) {
      firstAt = performance.now();
      onFirst(signal);
    } else if (performance.now() - firstAt > sameInterruptMs) {
      onAgain();
    }
  };
  const signals: NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];
  for (const signal of signals) process.on(signal, onSignal);
  return () => {
    for (const signal of signals) process.off(signal, onSignal);
  };
}
