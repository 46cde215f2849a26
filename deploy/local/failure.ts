/**
 * What the person at the terminal should read instead of a stack trace: one sentence that says what happened,
 * what to do about it and, where there is one, the path of the log. Everything else that is thrown is a defect of ours.
 */
export class Failure extends Error {
  /** Lines printed under the sentence, for example the end of a log. */
  readonly details: readonly string[];

  constructor(sentence: string, details: readonly string[] = [], cause?: unknown) {
    super(sentence, cause === undefined ? undefined : { cause });
    this.name = 'Failure';
    this.details = details;
  }
}

/** Prints a failure (a defect with its stack) to stderr; the caller decides how the process ends. */
export function printFailure(error: unknown): void {
  if (error instanceof Failure) {
    process.stderr.write(`\n${error.message}\n`);
    for (const line of error.details) process.stderr.write(`    ${line}\n`);
    return;
  }
  process.stderr.write(`\n${error instanceof Error ? (error.stack ?? error.message) : error}\n`);
}

/** The message of whatever was thrown, for the middle of a sentence. AggregateErrors of the net module have none of their own. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return messageOf(error.errors[0]);
  if (error instanceof Error) return error.message === '' ? error.name : error.message;
  return String(error);
}
