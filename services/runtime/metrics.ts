import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { loopAgesMs } from './loop.ts';

/**
 * The metrics of one process. Each process has a registry of its own and is scraped by itself.
 * Labels have few values: never a user, an order or a SKU.
 */
export interface Metrics {
  readonly registry: Registry;
  counter<Label extends string>(name: string, help: string, labels?: Label[]): Counter<Label>;
  gauge<Label extends string>(name: string, help: string, labels?: Label[]): Gauge<Label>;
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
  return {
    registry,
    counter: (name, help, labelNames = []) => new Counter({ name, help, labelNames, registers }),
    gauge: (name, help, labelNames = []) => new Gauge({ name, help, labelNames, registers }),
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
