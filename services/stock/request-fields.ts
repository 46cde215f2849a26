import type { FieldViolation } from '../runtime/refusals.ts';

/** 2^63 - 1: what fits an int64. The transport refuses more, and wraps what a careless peer sends. */
export const idMax = 2n ** 63n - 1n;
/** 9999-12-31, the last day that MySQL can store. */
const timeMaxMs = Date.UTC(9999, 11, 31);
const timeMinMs = Date.UTC(2000, 0, 1);

const requestIdPattern = /^[\x20-\x7e]{1,128}$/;

/** Collects what is wrong with a request, field by field, so that all of it is reported at once. */
export class RequestFields {
  readonly violations: FieldViolation[] = [];

  add(field: string, description: string): void {
    this.violations.push({ field, description });
  }

  id(field: string, value: bigint): void {
    if (value <= 0n || value > idMax) this.add(field, 'must be a positive 63-bit integer');
  }

  integer(field: string, value: number | bigint, min: number | bigint, max: number | bigint): void {
    if (value < min || value > max) this.add(field, `must be from ${min} to ${max}`);
  }

  requestId(field: string, value: string): void {
    if (!isRequestId(value)) this.add(field, 'must be 1 to 128 printable ASCII characters');
  }

  title(field: string, value: string): void {
    const { length } = [...value];
    if (length < 1 || length > 200 || value.trim() === '') {
      this.add(field, 'must be 1 to 200 characters');
    }
  }

  currency(field: string, value: string): void {
    if (!/^[A-Z]{3}$/.test(value)) this.add(field, 'must be three upper-case letters, such as USD');
  }

  time(field: string, value: Date): void {
    const ms = value.getTime();
    if (!(ms >= timeMinMs && ms <= timeMaxMs)) {
      this.add(field, 'must be between the years 2000 and 9999');
    }
  }
}

/** 1 to 128 printable ASCII characters. */
export function isRequestId(value: string): boolean {
  return requestIdPattern.test(value);
}
