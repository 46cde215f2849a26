import { ClientError, ServerError, Status } from 'nice-grpc';
import {
  BadRequest,
  ErrorInfo,
  RetryInfo,
  RichClientError,
  RichServerError,
} from 'nice-grpc-error-details';
import type { Refusal as RefusalMessage } from '../../gen/sluice/stock/v1/refusal.ts';
import { Refusal, type RefusalReason, reasonNumber, reasonOf, refusalTable } from './refusals.ts';

/** The domain of every `ErrorInfo` that Sluice sends. */
export const errorDomain = 'sluice';

/** The gRPC status of a refusal: exactly one ErrorInfo, and BadRequest and RetryInfo where they help. */
export function toStatus(refusal: Refusal): ServerError {
  const metadata: Record<string, string> = {};
  if (refusal.skuId !== undefined) metadata.skuId = String(refusal.skuId);
  const details: ConstructorParameters<typeof RichServerError>[2] = [
    ErrorInfo.fromPartial({ domain: errorDomain, reason: refusal.reason, metadata }),
  ];
  if (refusal.violations.length > 0) {
    details.push(BadRequest.fromPartial({ fieldViolations: [...refusal.violations] }));
  }
  if (refusal.retryAfterMs > 0) {
    const seconds = Math.floor(refusal.retryAfterMs / 1_000);
    const nanos = (refusal.retryAfterMs % 1_000) * 1_000_000;
    details.push(RetryInfo.fromPartial({ retryDelay: { seconds, nanos } }));
  }
  return new RichServerError(refusalTable[refusal.reason].grpc, refusal.message, details);
}

/**
 * What a failed call means to its caller. A status without our ErrorInfo comes from the transport:
 * only UNAVAILABLE before the call was sent surely did nothing, and gRPC cannot tell that apart
 * from a connection lost half-way, so `sent` says whether the method may have had an effect.
 */
export function fromClientError(error: unknown, mayHaveTakenEffect = true): Refusal {
  if (error instanceof Refusal) return error;
  if (error instanceof RichClientError) {
    const refusal = fromDetails(error);
    if (refusal) return refusal;
  }
  if (error instanceof ClientError) {
    const where = `${error.path}: ${Status[error.code]}`;
    if (error.code === Status.UNAVAILABLE && !mayHaveTakenEffect) {
      return new Refusal('DEPENDENCY_DOWN', where, { cause: error });
    }
    if (error.code === Status.UNAVAILABLE && neverSent(error)) {
      return new Refusal('DEPENDENCY_DOWN', where, { cause: error });
    }
    return new Refusal('OUTCOME_UNKNOWN', where, { cause: error });
  }
  return new Refusal('OUTCOME_UNKNOWN', undefined, { cause: error });
}

/** The message that carries a refusal inside a batch's result. */
export function toRefusalMessage(refusal: Refusal): RefusalMessage {
  return {
    reason: reasonNumber(refusal.reason),
    message: refusal.message,
    violations: refusal.violations.map(({ field, description }) => ({ field, description })),
    skuId: refusal.skuId ?? 0n,
    retryAfterMs: refusal.retryAfterMs,
  };
}

/** The refusal that a batch's result carries. */
export function fromRefusalMessage(message: RefusalMessage): Refusal {
  return new Refusal(reasonOf(message.reason), message.message, {
    violations: message.violations,
    retryAfterMs: message.retryAfterMs,
    ...(message.skuId === 0n ? {} : { skuId: message.skuId }),
  });
}

function fromDetails(error: RichClientError): Refusal | undefined {
  let reason: RefusalReason | undefined;
  let skuId: bigint | undefined;
  let violations: { field: string; description: string }[] = [];
  let retryAfterMs = 0;
  for (const detail of error.extra) {
    if (detail.$type === ErrorInfo.$type) {
      const info = detail as ErrorInfo;
      if (info.domain === errorDomain && info.reason in refusalTable) {
        reason = info.reason as RefusalReason;
        if (info.metadata.skuId !== undefined) skuId = BigInt(info.metadata.skuId);
      }
    } else if (detail.$type === BadRequest.$type) {
      violations = (detail as BadRequest).fieldViolations;
    } else if (detail.$type === RetryInfo.$type) {
      const delay = (detail as RetryInfo).retryDelay;
      retryAfterMs = delay ? Number(delay.seconds) * 1_000 + delay.nanos / 1_000_000 : 0;
    }
  }
  if (reason === undefined) return undefined;
  const details = { violations, retryAfterMs, cause: error };
  return new Refusal(reason, error.details, skuId === undefined ? details : { ...details, skuId });
}

/**
 * Whether grpc-js gave up before a connection existed. It reports both this and a connection lost
 * half-way as UNAVAILABLE; only the texts of its channel say which, so anything else is unknown.
 */
function neverSent(error: ClientError): boolean {
  return /^(No connection established|Name resolution failed)/.test(error.details);
}
