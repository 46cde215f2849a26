import type { CallContext, ServerMiddleware } from 'nice-grpc';
import { Deadline } from './deadline.ts';

/**
 * The time left of the caller's budget, in milliseconds, as metadata. The server's library strips
 * `grpc-timeout` before a handler sees it, so the budget is repeated here. Relative, so that the
 * clocks of two hosts need not agree.
 */
export const deadlineLeftHeader = 'x-deadline-left-ms';
/** What a handler may take where the caller names no deadline (grpcurl). */
const defaultBudgetMs = 5_000;
/** Longer budgets are cut: nobody may keep work alive for longer. */
const budgetMaxMs = 60_000;

export interface DeadlineContext {
  /** When the caller stops waiting. */
  readonly deadline: Deadline;
}

/** Gives handlers the caller's deadline. */
export const deadlineMiddleware: ServerMiddleware<DeadlineContext> = async function* (
  call,
  context,
) {
  const deadline = Deadline.after(budgetOf(context));
  return yield* call.next(call.request, Object.assign(context, { deadline }));
};

function budgetOf(context: CallContext): number {
  const text = context.metadata.get(deadlineLeftHeader);
  const leftMs = text === undefined ? Number.NaN : Number(text);
  return leftMs > 0 ? Math.min(leftMs, budgetMaxMs) : defaultBudgetMs;
}
