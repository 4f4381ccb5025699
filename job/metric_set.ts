import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { MetricEntry } from "./metrics.js";

export type Labels = Record<string, string>;

/**
 * Instruments of a catalogue, and the process's own (`process_`, `nodejs_`). Whoever shows figures that are kept elsewhere
 * sets them when a scrape begins: `onScrape`.
 */
export class MetricSet<Name extends string> {
  readonly #registry = new Registry();
  readonly #instruments = new Map<Name, Counter | Gauge | Histogram>();

  constructor(catalogue: Readonly<Record<Name, MetricEntry>>) {
    collectDefaultMetrics({ register: this.#registry });
    for (const [name, entry] of Object.entries(catalogue) as [Name, MetricEntry][]) {
      const { type, help, labels, buckets = [] } = entry;
      const shared = { name, help, labelNames: Object.keys(labels), registers: [this.#registry] };
      if (type === "counter") this.#instruments.set(name, new Counter(shared));
      else if (type === "gauge") this.#instruments.set(name, new Gauge(shared));
      else this.#instruments.set(name, new Histogram({ ...shared, buckets: [...buckets] }));
    }
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  render(): Promise<string> {
    return this.#registry.metrics();
  }

  /** An increment of a counter, a value of a gauge, an observation of a histogram. */
  tell(name: Name, value: number, labels: Labels = {}): void {
    const instrument = this.#instruments.get(name)!;
    if (instrument instanceof Counter) instrument.inc(labels, value);
    else if (instrument instanceof Gauge) instrument.set(labels, value);
    else instrument.observe(labels, value);
  }

  /** A histogram's series from now on, without an observation; what it had is gone. */
  begin(name: Name, labels: Labels): void {
    const instrument = this.#instruments.get(name)!;
    if (!(instrument instanceof Histogram)) throw new TypeError(`${name} is no histogram: tell() it 0`);
    instrument.zero(labels);
  }

  /** All series of a metric at once, a counter's too, whose sum is kept elsewhere; those that are not named are gone. */
  show(name: Name, series: Iterable<readonly [labels: Labels, value: number]>): void {
    const instrument = this.#instruments.get(name)!;
    if (instrument instanceof Histogram)
      throw new TypeError(`${name} is a histogram: tell() it observations`);
    instrument.reset();
    // Without labels there is a series, 0, from the beginning on.
    for (const [labels, value] of series) instrument.inc(labels, value);
  }

  /** Series whose labels do not pass are gone, of every metric: their job is forgotten. */
  async keep(isKept: (labels: Partial<Labels>) => boolean): Promise<void> {
    for (const instrument of this.#instruments.values()) {
      const { values } = await instrument.get();
      for (const { labels } of values) {
        const { le: _, ...own } = labels as Labels;
        if (!isKept(own)) instrument.remove(own);
      }
    }
  }
}
