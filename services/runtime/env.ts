/** Every setting that is wrong, by name; thrown once, so that a person fixes all of them at once. */
export class ConfigError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join('\n'));
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

/** The variables of a process, as `process.env` has them. */
export type Variables = Readonly<Record<string, string | undefined>>;

/** The secret that demo mode uses; it is public, so it is refused anywhere else. */
export const demoTokenSecret = 'sluice-demo-secret-which-everybody-knows';

/**
 * Reads settings into one frozen object. Collects the problems of all of them before it throws.
 * An empty variable counts as unset, as shells and compose files produce it.
 *
 * @throws ConfigError naming every bad variable
 */
export function readEnv<Config extends object>(
  variables: Variables,
  read: (env: EnvReader) => Config,
): Readonly<Config> {
  const problems: string[] = [];
  const config = read(new EnvReader(variables, problems));
  if (problems.length > 0) throw new ConfigError(problems);
  return Object.freeze(config);
}

export class EnvReader {
  readonly #variables: Variables;
  readonly #problems: string[];

  constructor(variables: Variables, problems: string[]) {
    this.#variables = variables;
    this.#problems = problems;
  }

  string(name: string, fallback: string): string {
    return this.#get(name) ?? fallback;
  }

  /** A text of a certain form; `rule` says which, for a person. */
  matching(name: string, form: RegExp, rule: string, fallback: string): string {
    const text = this.#get(name);
    if (text === undefined || form.test(text)) return text ?? fallback;
    return this.#bad(name, text, rule, fallback);
  }

  integer(
    name: string,
    fallback: number,
    { min = 0, max = Number.MAX_SAFE_INTEGER }: { min?: number; max?: number } = {},
  ): number {
    const text = this.#get(name);
    if (text === undefined) return fallback;
    const value = Number(text);
    if (/^-?\d+$/.test(text) && value >= min && value <= max) return value;
    return this.#bad(name, text, `must be a whole number from ${min} to ${max}`, fallback);
  }

  /** A TCP port; 0 lets the system choose. */
  port(name: string, fallback: number): number {
    return this.integer(name, fallback, { min: 0, max: 65_535 });
  }

  boolean(name: string, fallback: boolean): boolean {
    const text = this.#get(name);
    if (text === undefined) return fallback;
    if (text === '1' || text === 'true') return true;
    if (text === '0' || text === 'false') return false;
    return this.#bad(name, text, 'must be 1, true, 0 or false', fallback);
  }

  choice<Value extends string>(name: string, values: readonly Value[], fallback: Value): Value {
    const text = this.#get(name);
    if (text === undefined) return fallback;
    const value = values.find((candidate) => candidate === text);
    return value ?? this.#bad(name, text, `must be one of ${values.join(', ')}`, fallback);
  }

  /** Comma separated values, each trimmed; empty ones are dropped. */
  list(name: string, fallback: readonly string[]): readonly string[] {
    const text = this.#get(name);
    if (text === undefined) return fallback;
    const values = splitList(text);
    if (values.length > 0) return values;
    return this.#bad(name, text, 'must name at least one value', fallback);
  }

  /** Comma separated `host:port` pairs. */
  addresses(name: string, fallback: readonly string[]): readonly string[] {
    const values = this.list(name, fallback);
    const wrong = values.find((value) => !/^[^\s:]+:\d{1,5}$/.test(value));
    if (wrong === undefined) return values;
    return this.#bad(name, wrong, 'must be host:port, or several separated by commas', fallback);
  }

  /** Comma separated URLs of one scheme. */
  urls(name: string, scheme: string, fallback: readonly string[]): readonly string[] {
    const values = this.list(name, fallback);
    const wrong = values.find(
      (value) => !URL.canParse(value) || new URL(value).protocol !== `${scheme}:`,
    );
    if (wrong === undefined) return values;
    return this.#bad(name, redact(wrong), `must be ${scheme}://host:port`, fallback);
  }

  /** One http or https URL, without a slash at its end. */
  httpUrl(name: string, fallback: string): string {
    const text = this.#get(name) ?? fallback;
    const protocol = URL.canParse(text) ? new URL(text).protocol : '';
    if (protocol === 'http:' || protocol === 'https:') return text.replace(/\/+$/, '');
    return this.#bad(name, redact(text), 'must be http://host:port or https://host', fallback);
  }

  /** One or two secrets, comma separated: two while one is being replaced. The first is the one to sign with. */
  secrets(name: string, demo: boolean): readonly string[] {
    const texts = this.#get(name)?.split(',') ?? [undefined];
    if (texts.length > 2) return this.#bad(name, '…', 'must be one secret, or two', []);
    return texts.map((text) => this.#checkSecret(name, text?.trim(), demo));
  }

  /** A secret of at least 32 characters; the public demo secret only in demo mode. */
  secret(name: string, demo: boolean): string {
    return this.#checkSecret(name, this.#get(name), demo);
  }

  /** `<databases>x<tables>`, such as 2x8; together they are at most the 1,024 slots. */
  shards(name: string, fallback: string): { databases: number; tables: number } {
    const text = this.#get(name) ?? fallback;
    const match = /^(\d{1,3})x(\d{1,2})$/.exec(text);
    const shards = { databases: Number(match?.[1] ?? 0), tables: Number(match?.[2] ?? 0) };
    const count = shards.databases * shards.tables;
    if (count >= 1 && count <= 1_024) return shards;
    const rule = 'must be databases x tables, such as 2x8, 1 to 1,024 tables in all';
    return this.#bad(name, text, rule, { databases: 1, tables: 1 });
  }

  #checkSecret(name: string, text: string | undefined, demo: boolean): string {
    if (text === undefined && demo) return demoTokenSecret;
    if (text === undefined) {
      return this.#bad(name, '', 'must be set (32 characters or more) outside demo mode', '');
    }
    if (text === demoTokenSecret && !demo) {
      return this.#bad(name, '…', 'is the public demo secret; choose one of your own', '');
    }
    if (text.length < 32) return this.#bad(name, '…', 'must have 32 characters or more', '');
    return text;
  }

  #get(name: string): string | undefined {
    const text = this.#variables[name]?.trim();
    return text === '' ? undefined : text;
  }

  #bad<Value>(name: string, text: string, rule: string, fallback: Value): Value {
    this.#problems.push(`${name}${text === '' ? '' : `=${text}`} ${rule}`);
    return fallback;
  }
}

function splitList(text: string): string[] {
  return text
    .split(',')
    .map((value) => value.trim())
    .filter((value) => value !== '');
}

/** A URL without its password, for messages; up to the last `@`, since it may be wrong just there. */
function redact(url: string): string {
  return url.replace(/\/\/.*@/, '//…@');
}
