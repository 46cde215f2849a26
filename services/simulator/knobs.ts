import { ApiError } from './api-error.ts';
import type { Database } from './database.ts';

/** How the simulator misbehaves. Live: read at every step, kept in its store. */
export interface Knobs {
  readonly duplicates: number;
  readonly delayMs: number;
  readonly reorderMs: number;
  readonly wrongAmount: number;
  readonly wrongCurrency: string;
  readonly wrongSignature: boolean;
  readonly silence: boolean;
  readonly loseAnswers: 'no' | 'drop' | 'hang';
  readonly loseShare: number;
  readonly refuseRefunds: boolean;
  readonly refundsPendingMs: number;
  readonly slowMs: number;
  readonly payAfterClose: boolean;
  readonly processingMs: number;
  readonly refuseDebits: boolean;
  readonly limitPerSecond: number;
  readonly retryAfterS: number;
  readonly storeErrors: boolean;
}

interface Knob<Value> {
  readonly usual: Value;
  readonly about: string;
  readonly rule: string;
  readonly accepts: (value: unknown) => boolean;
}

const dayMs = 86_400_000;

const whole = (usual: number, min: number, max: number, about: string): Knob<number> => ({
  usual,
  about,
  rule: `a whole number from ${min} to ${max}`,
  accepts: (value) => Number.isSafeInteger(value) && Number(value) >= min && Number(value) <= max,
});

const flag = (about: string): Knob<boolean> => ({
  usual: false,
  about,
  rule: 'true or false',
  accepts: (value) => typeof value === 'boolean',
});

/** Every knob, with the value of a provider that behaves. */
export const knobTable: { readonly [Name in keyof Knobs]: Knob<Knobs[Name]> } = {
  duplicates: whole(1, 1, 1_000, 'each webhook is sent this many times, under one event id'),
  delayMs: whole(0, 0, 7 * dayMs, 'webhooks are sent this long after what they tell'),
  reorderMs: whole(0, 0, dayMs, 'webhooks are shuffled: each waits up to this long, by chance'),
  wrongAmount: whole(
    0,
    -1_000_000_000,
    1_000_000_000,
    'added to what a payment captures, in minor units; at least one unit is captured',
  ),
  wrongCurrency: {
    usual: '',
    about:
      'the currency that a payment captures instead of the one asked for; empty: the right one',
    rule: 'a code such as EUR, or empty',
    accepts: (value) => typeof value === 'string' && /^([A-Z]{3})?$/.test(value),
  },
  wrongSignature: flag('webhooks are signed with a key that nobody has'),
  silence: flag('no webhook is made, and those that wait go on waiting'),
  loseAnswers: {
    usual: 'no',
    about:
      'what is asked (sessions, refunds) is done, and then the connection is dropped, or nothing answered for up to 30 s',
    rule: 'no, drop or hang',
    accepts: (value) => value === 'no' || value === 'drop' || value === 'hang',
  },
  loseShare: {
    usual: 1,
    about: 'the share of answers that loseAnswers loses',
    rule: 'a number from 0 to 1',
    accepts: (value) => typeof value === 'number' && value >= 0 && value <= 1,
  },
  refuseRefunds: flag('refunds fail for good'),
  refundsPendingMs: whole(0, 0, 7 * dayMs, 'refunds are pending this long before they are settled'),
  slowMs: whole(
    0,
    0,
    60_000,
    'what is asked (sessions, refunds) waits this long before it is done',
  ),
  payAfterClose: flag('a closed or expired session can still be paid: a late payment'),
  processingMs: whole(
    0,
    0,
    14 * dayMs,
    'a payment is in processing this long before it is paid; meanwhile its session cannot be closed',
  ),
  refuseDebits: flag('payments in processing fail when they are decided'),
  limitPerSecond: whole(
    0,
    0,
    10_000,
    'of each kind of call (open, read, close, refund) more than so many a second are answered 429, and not done; 0: no limit',
  ),
  retryAfterS: whole(0, 0, 3_600, 'the Retry-After of a 429, in seconds; 0: none is sent'),
  storeErrors: flag(
    'what is asked under an idempotency key (to open a session, to refund) is not done and answered 500; the 500 is stored and replayed under that key for a day, whatever the knob says then',
  ),
};

const names = Object.keys(knobTable) as (keyof Knobs)[];

const usualKnobs = Object.fromEntries(
  names.map((name) => [name, knobTable[name].usual]),
) as unknown as Knobs;

/** The knobs as they stand. */
export class KnobPanel {
  readonly #database: Database;
  #knobs: Knobs;

  constructor(database: Database) {
    this.#database = database;
    const rows = database.sqlite.prepare('SELECT name, value FROM knobs').all();
    const stored = rows.map(({ name, value }) => [name, JSON.parse(String(value))]);
    this.#knobs = checkKnobs(Object.fromEntries(stored));
  }

  get now(): Knobs {
    return this.#knobs;
  }

  /**
   * Sets the knobs that are named; all others return to their usual value, so that `{}` mends everything.
   *
   * @throws ApiError naming every knob that is unknown or out of range; then nothing changes
   */
  set(values: unknown): Knobs {
    const knobs = checkKnobs(values);
    const { sqlite, transaction } = this.#database;
    const insert = sqlite.prepare('INSERT INTO knobs (name, value) VALUES (?, ?)');
    transaction(() => {
      sqlite.exec('DELETE FROM knobs');
      for (const name of names) insert.run(name, JSON.stringify(knobs[name]));
    });
    this.#knobs = knobs;
    return knobs;
  }
}

function checkKnobs(values: unknown): Knobs {
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    throw new ApiError(400, 'invalid_request', 'the knobs must be a JSON object');
  }
  const problems = Object.entries(values).flatMap(([name, value]) => {
    const knob = Object.hasOwn(knobTable, name) ? knobTable[name as keyof Knobs] : undefined;
    if (!knob) return [`${name.slice(0, 40)} is no knob`];
    return knob.accepts(value) ? [] : [`${name} must be ${knob.rule}`];
  });
  if (problems.length > 0) throw new ApiError(400, 'invalid_request', problems.join('; '));
  return Object.freeze({ ...usualKnobs, ...values });
}
