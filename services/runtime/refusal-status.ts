import { ClientError, type ServerError, Status } from 'nice-grpc';
import {
  BadRequest,
  ErrorInfo,
  RetryInfo,
  RichClientError,
  RichServerError,
} from 'nice-grpc-error-details';
import type { Refusal as RefusalMessage } from '../../gen/sluice/stock/v1/refusal.ts';
import { countRefusal } from './refusal-counts.ts';
import { Refusal, type RefusalReason, reasonNumber, reasonOf, refusalTable } from './refusals.ts';

/** The domain of every `ErrorInfo` that Sluice sends. */
export const errorDomain = 'sluice';

/** The gRPC status of a refusal: exactly one ErrorInfo, and BadRequest and RetryInfo where they help. */
export function toStatus(refusal: Refusal): ServerError {
  countRefusal(refusal.reason);
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
 * What a failed call means to its caller. A status without our ErrorInfo comes from the transport,
 * which cannot tell a call that was never sent from one whose answer was lost; so it is unknown,
 * unless the method has no effect (`mayHaveTakenEffect` is false).
 */
export function fromClientError(error: unknown, mayHaveTakenEffect = true): Refusal {
  if (error instanceof Refusal) return error;
  if (error instanceof RichClientError) {
    const refusal = fromDetails(error);
    if (refusal) return refusal;
  }
  const reason = mayHaveTakenEffect ? 'OUTCOME_UNKNOWN' : 'DEPENDENCY_DOWN';
  const where =
    error instanceof ClientError ? `${error.path}: ${Status[error.code]}` : 'The call timed out';
  return new Refusal(reason, where, { cause: error });
}

/** The message that carries a refusal inside a batch's result. */
export function toRefusalMessage(refusal: Refusal): RefusalMessage {
  countRefusal(refusal.reason);
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
  const details = { violations, retryAfterMs, answered: true, cause: error };
  return new Refusal(reason, error.details, skuId === undefined ? details : { ...details, skuId });
}
