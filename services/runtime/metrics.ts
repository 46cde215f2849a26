import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { type AgeGauge, createAgeGauge } from './age-gauge.ts';
import { copyStates } from './copy-states.ts';
import { loopAgesMs } from './loop.ts';
import { refusalCounts } from './refusal-counts.ts';

/**
 * The metrics of one process. Each process has a registry of its own and is scraped by itself.
 * Labels have few values: never a user, an order or a SKU.
 */
export interface Metrics {
  readonly registry: Registry;
  counter<Label extends string>(name: string, help: string, labels?: Label[]): Counter<Label>;
  gauge<Label extends string>(name: string, help: string, labels?: Label[]): Gauge<Label>;
  /** A gauge of an age, which rises by itself while nobody looks. */
  age<Label extends string>(name: string, help: string, labels?: Label[]): AgeGauge<Label>;
  /** A gauge without labels whose value is asked for when it is read. */
  gaugeOf(name: string, help: string, read: () => number): void;
  histogram<Label extends string>(
    name: string,
    help: string,
    buckets: number[],
    labels?: Label[],
  ): Histogram<Label>;
}

export function createMetrics(service: string): Metrics {
  const registry = new Registry();
  registry.setDefaultLabels({ service });
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  showWholeProcess(registers);
  return {
    registry,
    counter: (name, help, labelNames = []) => new Counter({ name, help, labelNames, registers }),
    gauge: (name, help, labelNames = []) => new Gauge({ name, help, labelNames, registers }),
    age: (name, help, labelNames = []) => createAgeGauge({ name, help, labelNames, registry }),
    gaugeOf(name, help, read) {
      new Gauge({
        ...{ name, help, registers },
        collect() {
          this.set(read());
        },
      });
    },
    histogram: (name, help, buckets, labelNames = []) =>
      new Histogram({ name, help, buckets, labelNames, registers }),
  };
}

/** What every process shows, whatever it does. */
function showWholeProcess(registers: Registry[]): void {
  new Gauge({
    name: 'loop_age_seconds',
    help: 'Since a background loop last ended a round well; rises while it fails or hangs',
    labelNames: ['loop'],
    registers,
    collect() {
      this.reset();
      for (const [loop, ageMs] of loopAgesMs()) this.set({ loop }, ageMs / 1_000);
    },
  });
  new Gauge({
    name: 'grpc_copies',
    help: 'Copies of services that this process asks: answering, silent (owes answers for too long), away',
    labelNames: ['state'],
    registers,
    collect() {
      for (const [state, copies] of Object.entries(copyStates())) this.set({ state }, copies);
    },
  });
  new Counter({
    name: 'refusals_total',
    help: 'Requests that this process answered with a refusal, by its reason',
    labelNames: ['reason'],
    registers,
    collect() {
      this.reset();
      for (const [reason, count] of refusalCounts()) this.inc({ reason }, count);
    },
  });
}
