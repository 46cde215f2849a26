import { type FieldViolation, invalidRequest } from '../runtime/refusals.ts';

const idMax = 2n ** 63n - 1n;

/**
 * Reads an id out of a path, such as the order id in `/v1/orders/{id}`.
 *
 * @throws Refusal INVALID_REQUEST naming the field
 */
export function readPathId(params: unknown, field: string): bigint {
  const text = (params as Record<string, string>).id ?? '';
  const id = parseId(text);
  if (id !== undefined) return id;
  throw invalidRequest([{ field, description: idRule }]);
}

/** Reads the query of a request; what is wrong is collected, so that one answer lists every fault. */
export class Query {
  readonly #values: Readonly<Record<string, string | string[] | undefined>>;
  readonly #violations: FieldViolation[] = [];

  /** @param names the parameters that the route has; any other is a fault */
  constructor(query: unknown, names: readonly string[]) {
    this.#values = query as Record<string, string | string[] | undefined>;
    for (const name of Object.keys(this.#values)) {
      if (names.includes(name)) continue;
      const field = name.slice(0, 64).replace(/[^\x20-\x7e]/g, '?');
      this.#violations.push({ field, description: 'is not a parameter of this request' });
    }
  }

  /** A whole number; 0, which asks for the service's default, where it is absent. */
  integer(name: string, min: number, max: number): number {
    const text = this.#single(name);
    if (text === undefined) return 0;
    const value = /^\d{1,9}$/.test(text) ? Number(text) : -1;
    if (value >= min && value <= max) return value;
    this.#violations.push({
      field: name,
      description: `must be a whole number from ${min} to ${max}`,
    });
    return 0;
  }

  string(name: string): string {
    return this.#single(name) ?? '';
  }

  /** Ids from a parameter that may be repeated (`?skuId=1&skuId=2`). */
  ids(name: string, countMax: number): bigint[] {
    const value = this.#values[name];
    const texts = value === undefined ? [] : Array.isArray(value) ? value : [value];
    if (texts.length < 1 || texts.length > countMax) {
      this.#violations.push({ field: name, description: `must be given 1 to ${countMax} times` });
      return [];
    }
    const ids: bigint[] = [];
    for (const text of texts) {
      const id = parseId(text);
      if (id === undefined) this.#violations.push({ field: name, description: idRule });
      else ids.push(id);
    }
    return ids;
  }

  /** @throws Refusal INVALID_REQUEST naming every parameter at fault */
  done(): void {
    if (this.#violations.length > 0) throw invalidRequest(this.#violations);
  }

  #single(name: string): string | undefined {
    const value = this.#values[name];
    if (!Array.isArray(value)) return value;
    this.#violations.push({ field: name, description: 'must be given once' });
    return undefined;
  }
}

const idRule = `must be a whole number from 1 to ${idMax}`;

function parseId(text: string): bigint | undefined {
  if (!/^[1-9]\d{0,18}$/.test(text)) return undefined;
  const id = BigInt(text);
  return id <= idMax ? id : undefined;
}
