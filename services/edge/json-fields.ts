import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import { type FieldViolation, invalidRequest } from '../runtime/refusals.ts';

const int64Max = 2n ** 63n - 1n;
const int64Min = -(2n ** 63n);
const int32Max = 2 ** 31 - 1;
const int32Min = -(2 ** 31);

/** The fields that a message has: JSON name and proto name, both of which proto3 JSON accepts. */
export class JsonNames {
  readonly protoNames = new Map<string, string>();
  readonly accepted = new Set<string>();

  constructor(...names: string[]) {
    for (const name of names) {
      const protoName = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
      this.protoNames.set(name, protoName);
      this.accepted.add(name).add(protoName);
    }
  }
}

/** Inclusive bounds of a number. */
export interface Bounds<Value> {
  readonly min: Value;
  readonly max: Value;
}

/**
 * Reads one message in the proto3 JSON mapping. What is wrong is added to `violations` under the
 * field's JSON path and read as the field's default, so that one answer lists every fault. A field
 * that is absent or null has its default; a field that the message does not have is a fault.
 */
export class JsonFields {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #names: JsonNames;
  readonly #path: string;
  readonly #violations: FieldViolation[];
  /** Where there is no object at all, naming its fields too would only confuse. */
  readonly #isObject: boolean = true;

  constructor(value: unknown, names: JsonNames, violations: FieldViolation[], path = '') {
    this.#names = names;
    this.#path = path;
    this.#violations = violations;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      violations.push({ field: path === '' ? 'body' : path, description: 'must be a JSON object' });
      this.#fields = {};
      this.#isObject = false;
      return;
    }
    this.#fields = value as Record<string, unknown>;
    for (const key of Object.keys(value)) {
      if (!names.accepted.has(key)) this.#refuse(printable(key), 'is not a field of this request');
    }
  }

  /** Whether the field was sent. */
  has(name: string): boolean {
    return this.#get(name) !== undefined;
  }

  int64(name: string, { min, max }: Bounds<bigint> = { min: int64Min, max: int64Max }): bigint {
    const value = this.#get(name);
    let integer = 0n;
    if (typeof value === 'string' && /^-?\d{1,20}$/.test(value)) {
      integer = BigInt(value);
    } else if (typeof value === 'number' && Number.isInteger(value)) {
      if (!Number.isSafeInteger(value)) {
        return this.#refuse(
          name,
          'is beyond 2^53-1, where JSON numbers lose digits: send a string',
          0n,
        );
      }
      integer = BigInt(value);
    } else if (value !== undefined) {
      return this.#refuse(name, 'must be a whole number, best sent as a string', 0n);
    }
    if (integer >= min && integer <= max) return integer;
    return this.#refuse(name, `must be a whole number from ${min} to ${max}`, 0n);
  }

  int32(name: string, { min, max }: Bounds<number> = { min: int32Min, max: int32Max }): number {
    const value = this.#get(name);
    const integer = typeof value === 'string' && /^-?\d{1,10}$/.test(value) ? Number(value) : value;
    if (integer === undefined && min <= 0 && max >= 0) return 0;
    if (Number.isInteger(integer) && (integer as number) >= min && (integer as number) <= max) {
      return integer as number;
    }
    return this.#refuse(name, `must be a whole number from ${min} to ${max}`, 0);
  }

  string(name: string): string {
    const value = this.#get(name);
    if (value === undefined || typeof value === 'string') return value ?? '';
    return this.#refuse(name, 'must be a string', '');
  }

  boolean(name: string): boolean {
    const value = this.#get(name);
    if (value === undefined || typeof value === 'boolean') return value ?? false;
    return this.#refuse(name, 'must be true or false', false);
  }

  /** RFC 3339 with Z or an offset; kept to the millisecond. */
  timestamp(name: string): Date | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    const time = typeof value === 'string' ? parseTimestamp(value) : undefined;
    if (time) return time;
    const rule = 'must be an RFC 3339 time such as 2027-01-31T10:00:00Z';
    return this.#refuse(name, rule, undefined);
  }

  /** @param minorUnits the bounds of the amount; by default those of its type */
  money(name: string, minorUnits?: Bounds<bigint>): Money | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    const money = new JsonFields(value, moneyNames, this.#violations, this.#pathOf(name));
    const currencyCode = money.string('currencyCode');
    return { currencyCode, minorUnits: money.int64('minorUnits', minorUnits) };
  }

  /** The elements of a list, each with its path; a list outside the bounds is a fault and reads as empty. */
  list(name: string, { min, max }: Bounds<number>): { value: unknown; path: string }[] {
    const value = this.#get(name);
    if (Array.isArray(value) && value.length >= min && value.length <= max) {
      const path = this.#pathOf(name);
      return value.map((element, index) => ({ value: element, path: `${path}[${index}]` }));
    }
    return this.#refuse(name, `must be a list of ${min} to ${max} elements`, []);
  }

  #get(name: string): unknown {
    const value = this.#fields[name];
    if (value !== undefined && value !== null) return value;
    const other = this.#fields[this.#names.protoNames.get(name) ?? name];
    return other === null ? undefined : other;
  }

  #pathOf(name: string): string {
    return this.#path === '' ? name : `${this.#path}.${name}`;
  }

  #refuse(name: string, description: string): undefined;
  #refuse<Value>(name: string, description: string, instead: Value): Value;
  #refuse<Value>(name: string, description: string, instead?: Value): Value | undefined {
    if (this.#isObject) this.#violations.push({ field: this.#pathOf(name), description });
    return instead;
  }
}

/**
 * The body of a request that needs none: absent, or an object without fields.
 *
 * @throws Refusal INVALID_REQUEST naming every field that was sent
 */
export function readNoFields(body: unknown): void {
  const violations: FieldViolation[] = [];
  if (body !== undefined) new JsonFields(body, noNames, violations);
  if (violations.length > 0) throw invalidRequest(violations);
}

const noNames = new JsonNames();
const moneyNames = new JsonNames('currencyCode', 'minorUnits');

/** A field name that somebody made up is echoed, but not at any length and not with control characters. */
function printable(key: string): string {
  return key.slice(0, 64).replace(/[^\x20-\x7e]/g, '?');
}

const rfc3339 =
  /^(\d{4})-(\d\d)-(\d\d)[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$/;

function parseTimestamp(text: string): Date | undefined {
  const match = rfc3339.exec(text);
  if (!match) return undefined;
  const [, year, month, day] = match.map(Number) as [number, number, number, number];
  // Date.parse takes 31 February for 3 March.
  if (month < 1 || month > 12 || day < 1 || day > new Date(Date.UTC(year, month, 0)).getUTCDate()) {
    return undefined;
  }
  const milliseconds = Date.parse(text.toUpperCase());
  return Number.isNaN(milliseconds) ? undefined : new Date(milliseconds);
}
