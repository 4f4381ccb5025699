import { COUNTER_NAMES, COUNTERS, type CounterName, LINKS } from "../../../job/signals/counters.js";
import type { ReadSign } from "./log_reader.js";
import type { MachineReading } from "./read_counters.js";

const WINDOW_MS = 60_000;
/** A link must be down in so many readings in a row: drivers take it down for a moment. */
const DOWN_READINGS = 2;

interface Growth {
  atMs: number;
  device: string;
  by: number;
}

/** Tells from readings, one after another, which counters grow too fast and which links went down. Pure. */
export class CounterWatch {
  private readonly values = new Map<string, number>();
  /** Of the last minute, oldest first. */
  private readonly growth = new Map<CounterName, Growth[]>(COUNTER_NAMES.map((name) => [name, []]));
  /** Counters that were told and have not calmed down since. */
  private readonly told = new Set<CounterName>();
  /** Readings in which each link that was once up has been down, in a row. */
  private readonly downs = new Map<string, number>();

  /** @param nowMs on a clock that never goes back */
  take(reading: MachineReading, nowMs: number): { signs: ReadSign[]; grown: Map<CounterName, number> } {
    const grown = this.takeCounts(reading, nowMs);
    return { signs: [...this.judgeCounters(), ...this.judgeLinks(reading)], grown };
  }

  /** Growth of each counter over the last minute, of those that grew. */
  get perMinute(): Map<CounterName, number> {
    const sums = COUNTER_NAMES.map((name) => [name, sumOf(this.growth.get(name)!)] as const);
    return new Map(sums.filter(([, sum]) => sum > 0));
  }

  private takeCounts({ counts }: MachineReading, nowMs: number): Map<CounterName, number> {
    const grown = new Map<CounterName, number>();
    for (const name of COUNTER_NAMES) {
      const recent = this.growth.get(name)!;
      while (recent[0] !== undefined && recent[0].atMs <= nowMs - WINDOW_MS) recent.shift();
    }
    for (const { counter, device, value } of counts) {
      const key = `${counter} ${device}`;
      const by = value - (this.values.get(key) ?? value);
      this.values.set(key, value);
      if (by <= 0) continue; // a driver that was loaded anew counts from 0
      this.growth.get(counter)!.push({ atMs: nowMs, device, by });
      grown.set(counter, (grown.get(counter) ?? 0) + by);
    }
    return grown;
  }

  private judgeCounters(): ReadSign[] {
    return COUNTER_NAMES.flatMap((name) => {
      const recent = this.growth.get(name)!;
      const sum = sumOf(recent);
      const { perMinuteMax } = COUNTERS[name];
      if (sum <= perMinuteMax / 2) this.told.delete(name);
      if (sum <= perMinuteMax || this.told.has(name)) return [];
      this.told.add(name);
      const device = worst(recent);
      const limit = perMinuteMax === 0 ? "" : `, more than ${perMinuteMax}`;
      return [{ kind: `counter.${name}`, device, text: `grew by ${sum} in a minute${limit}` }];
    });
  }

  private judgeLinks({ links }: MachineReading): ReadSign[] {
    return links.flatMap(({ link, device, up }) => {
      const key = `${link} ${device}`;
      const before = this.downs.get(key) ?? (LINKS[link].expected ? 0 : undefined);
      if (up) this.downs.set(key, 0);
      if (up || before === undefined) return []; // one that was never up is not connected
      this.downs.set(key, before + 1);
      return before + 1 === DOWN_READINGS
        ? [{ kind: `counter.${link}`, device, text: "was up, is down" }]
        : [];
    });
  }
}

function sumOf(growth: readonly Growth[]): number {
  return growth.reduce((sum, { by }) => sum + by, 0);
}

/** Device that grew most. */
function worst(growth: readonly Growth[]): string {
  const sums = new Map<string, number>();
  for (const { device, by } of growth) sums.set(device, (sums.get(device) ?? 0) + by);
  return [...sums].sort((a, b) => b[1] - a[1])[0]?.[0] ?? "";
}
