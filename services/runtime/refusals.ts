import { Status } from 'nice-grpc';
import { RefusalReason as ReasonNumber } from '../../gen/sluice/stock/v1/refusal.ts';

/** What every reason of the error catalogue becomes on both transports (DESIGN: one error catalogue). */
export interface CatalogueEntry {
  readonly grpc: Status;
  readonly http: number;
  /** RFC 9457 `title`; the same sentence for every occurrence. */
  readonly title: string;
  /** Business refusals are answers, not failures: they never count against a breaker. */
  readonly business: boolean;
  /** Milliseconds after which a retry may help; 0 where retrying unchanged does not help. */
  readonly retryAfterMs: number;
}

const entry = (
  grpc: Status,
  http: number,
  title: string,
  { business = true, retryAfterMs = 0 } = {},
): CatalogueEntry => ({ grpc, http, title, business, retryAfterMs });

const failed = { business: false, retryAfterMs: 1_000 };

/** The error catalogue: the only place where a reason meets a gRPC code or an HTTP status. */
export const refusalTable = {
  INVALID_REQUEST: entry(Status.INVALID_ARGUMENT, 400, 'The request is not valid'),
  IDEMPOTENCY_KEY_REUSED: entry(
    Status.INVALID_ARGUMENT,
    422,
    'The request id was used before with other content',
  ),
  UNAUTHENTICATED: entry(Status.UNAUTHENTICATED, 401, 'A valid token is needed'),
  FORBIDDEN: entry(Status.PERMISSION_DENIED, 403, 'The token lacks the role'),
  NOT_FOUND: entry(Status.NOT_FOUND, 404, 'Not found'),
  SOLD_OUT: entry(Status.FAILED_PRECONDITION, 409, 'Sold out'),
  PURCHASE_LIMIT: entry(Status.FAILED_PRECONDITION, 409, 'The limit per user is reached'),
  SALE_NOT_STARTED: entry(Status.FAILED_PRECONDITION, 409, 'The sale has not started'),
  SALE_ENDED: entry(Status.FAILED_PRECONDITION, 409, 'The sale has ended'),
  SKU_PAUSED: entry(Status.FAILED_PRECONDITION, 409, 'The sale is paused'),
  ILLEGAL_TRANSITION: entry(
    Status.FAILED_PRECONDITION,
    409,
    'The state of the order does not allow this',
  ),
  RATE_LIMITED: entry(Status.RESOURCE_EXHAUSTED, 429, 'Too many requests', { retryAfterMs: 1_000 }),
  OVERLOADED: entry(Status.UNAVAILABLE, 503, 'Overloaded; nothing was done', failed),
  STOCK_NOT_LOADED: entry(Status.UNAVAILABLE, 503, 'The stock is being loaded; nothing was done', {
    retryAfterMs: 1_000,
  }),
  DEPENDENCY_DOWN: entry(
    Status.UNAVAILABLE,
    503,
    'A service that is needed is away; nothing was done',
    failed,
  ),
  OUTCOME_UNKNOWN: entry(
    Status.DEADLINE_EXCEEDED,
    504,
    'The outcome is not known yet; retry with the same request id to learn it',
    failed,
  ),
} as const satisfies Record<string, CatalogueEntry>;

/** A reason of the error catalogue; equal to `ErrorInfo.reason` in the domain `sluice`. */
export type RefusalReason = keyof typeof refusalTable;

/** One field that is not acceptable, by its path in proto names (`lines[2].quantity`). */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

export interface RefusalDetails {
  readonly violations?: readonly FieldViolation[];
  readonly skuId?: bigint;
  readonly retryAfterMs?: number;
  /** Whether a peer sent this refusal, so that it is alive and answers. Default false. */
  readonly answered?: boolean;
  readonly cause?: unknown;
}

/** The one error that a caller is meant to see. Anything else is INTERNAL and only logged. */
export class Refusal extends Error {
  readonly reason: RefusalReason;
  readonly violations: readonly FieldViolation[];
  /** The SKU that refused, where one did. */
  readonly skuId: bigint | undefined;
  readonly retryAfterMs: number;
  /** Whether a peer sent this refusal, so that it is alive and answers. */
  readonly answered: boolean;

  constructor(reason: RefusalReason, message?: string, details: RefusalDetails = {}) {
    super(
      message ?? refusalTable[reason].title,
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.name = 'Refusal';
    this.reason = reason;
    this.violations = details.violations ?? [];
    this.skuId = details.skuId;
    this.retryAfterMs = details.retryAfterMs ?? refusalTable[reason].retryAfterMs;
    this.answered = details.answered ?? false;
    // A refusal is an ordinary answer, made by the thousand at a sell-out; nobody reads where from.
    if (refusalTable[reason].business) Error.captureStackTrace?.(this, Refusal);
  }
}

/** INVALID_REQUEST with its violations; the message lists them, so that a log line is enough. */
export function invalidRequest(violations: readonly FieldViolation[]): Refusal {
  const text = violations.map(({ field, description }) => `${field}: ${description}`).join('; ');
  return new Refusal('INVALID_REQUEST', text, { violations });
}

/** Whether this is an answer of the business (sold out, limit, …) and not a failure of a service. */
export function isBusinessRefusal(error: unknown): error is Refusal {
  return error instanceof Refusal && refusalTable[error.reason].business;
}

/** Reasons that this process gives itself when it has too much to do: they say nothing about a peer. */
const ownBounds = new Set<RefusalReason>(['OVERLOADED', 'RATE_LIMITED']);

/**
 * Whether an error says nothing bad about the peer that was asked: a business refusal, anything that
 * the peer itself answered, or a bound of ours. Only a lost connection and a missing answer do.
 */
export function isAnswer(error: unknown): boolean {
  if (!(error instanceof Refusal)) return false;
  return error.answered || refusalTable[error.reason].business || ownBounds.has(error.reason);
}

/** The proto number of a reason. */
export function reasonNumber(reason: RefusalReason): ReasonNumber {
  return ReasonNumber[`REFUSAL_REASON_${reason}`];
}

const reasonByNumber = new Map<number, RefusalReason>(
  (Object.keys(refusalTable) as RefusalReason[]).map((reason) => [reasonNumber(reason), reason]),
);

/** The reason of a proto number; a number from a newer peer is an outcome that we do not know. */
export function reasonOf(number: number): RefusalReason {
  return reasonByNumber.get(number) ?? 'OUTCOME_UNKNOWN';
}
