import { invalidRequest, Refusal } from '../runtime/refusals.ts';
import { idempotencyKeyHeader } from './create-order-request.ts';

/**
 * The refusal of a service, with its violations named as the HTTP request names its fields:
 * `lines[2].sku_id` becomes `lines[2].skuId`, and `request_id` is a header here.
 */
export function inRequestFields(refusal: Refusal): Refusal {
  if (refusal.violations.length === 0) return refusal;
  const { reason, skuId, retryAfterMs } = refusal;
  const violations = refusal.violations.map(({ field, description }) => ({
    field: requestField(field),
    description,
  }));
  // The text of a request that is not valid lists its fields too.
  const { message } = reason === 'INVALID_REQUEST' ? invalidRequest(violations) : refusal;
  return new Refusal(reason, message, {
    violations,
    ...(skuId === undefined ? {} : { skuId }),
    retryAfterMs,
    cause: refusal,
  });
}

type Method = (...parameters: never[]) => Promise<unknown>;

/** The same client, whose refusals name the fields of the HTTP request. */
export function answeringInRequestFields<Client extends object>(client: Client): Client {
  const methods: Record<string, Method> = {};
  for (const [name, method] of Object.entries(client) as [string, Method][]) {
    methods[name] = async (...parameters) => {
      try {
        return await method(...parameters);
      } catch (error) {
        throw error instanceof Refusal ? inRequestFields(error) : error;
      }
    };
  }
  return methods as Client;
}

function requestField(protoField: string): string {
  const field = protoField.replace(/^requests\[\d+\]\./, '');
  if (field === 'request_id') return idempotencyKeyHeader;
  return field.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
