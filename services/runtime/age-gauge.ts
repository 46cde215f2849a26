import { Gauge, type Registry } from 'prom-client';

/** Whoever looks at a backlog looks again within this, in milliseconds, while all is well. */
const freshMs = 15_000;

/** How long something has waited, as somebody looks at it now and then. */
export interface AgeGauge<Label extends string> {
  /** Notes what a look found, in seconds. */
  set(labels: Readonly<Record<Label, string>>, seconds: number): void;
}

export interface AgeGaugeOptions<Label extends string> {
  readonly name: string;
  readonly help: string;
  readonly labelNames: Label[];
  readonly registry: Registry;
  /** Milliseconds on a clock that never goes back; default `performance.now`. */
  readonly nowMs?: () => number;
}

/**
 * A gauge of an age that is true whenever it is read: once nobody has looked for 15 s, it rises by itself, for
 * nobody knows then that anything was done meanwhile.
 */
export function createAgeGauge<Label extends string>({
  name,
  help,
  labelNames,
  registry,
  nowMs = () => performance.now(),
}: AgeGaugeOptions<Label>): AgeGauge<Label> {
  const looks = new Map<
    string,
    { readonly labels: Readonly<Record<Label, string>>; seconds: number; atMs: number }
  >();
  new Gauge({
    ...{ name, help, labelNames },
    registers: [registry],
    collect() {
      for (const { labels, seconds, atMs } of looks.values()) {
        this.set(labels, seconds + Math.max(0, nowMs() - atMs - freshMs) / 1_000);
      }
    },
  });
  return {
    set(labels, seconds) {
      const key = labelNames.map((label) => labels[label]).join(' ');
      looks.set(key, { labels, seconds, atMs: nowMs() });
    },
  };
}
