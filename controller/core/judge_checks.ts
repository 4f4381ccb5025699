import { median as medianOf } from "../../job/median.js";
import type { CheckReading } from "./state.js";

/** How a check is compared with the fleet's; checks that are not here are only ok or not. */
interface Comparison {
  /** Of the median; a node below it is slow. Null: the reading is an offset, and `limit` counts. */
  fraction: number | null;
  /** A node above it is never slow: by then something else is the bottleneck. Zero: always compared. */
  floor: number;
  /** Of the distance to the median, for offsets. */
  limit: number;
}
const pace = (fraction: number, floor: number): Comparison => ({ fraction, floor, limit: 0 });

/** Fractions allow for what lies between good machines of one kind; docs/self-checks.md says why each. */
export const COMPARISONS: ReadonlyMap<string, Comparison> = new Map([
  ["matrix", pace(0.6, 0)],
  ["copy", pace(0.5, 0)],
  ["disk", pace(0.2, 200)],
  ["checkpoint_disk", pace(0.2, 200)],
  ["loopback", pace(0.3, 1)],
  ["collective", pace(0.3, 10)],
  ["device_matrix", pace(0.6, 0)],
  ["device_upload", pace(0.5, 0)],
  ["device_download", pace(0.5, 0)],
  ["device_copy", pace(0.6, 0)],
  ["clock", { fraction: null, floor: 0, limit: 500 }],
]);
/** Fewer machines than this cannot say which of them is the odd one. */
export const MACHINE_COUNT_MIN = 3;

/** A node with its newest readings. */
export interface FleetNode {
  nodeId: string;
  /** Nodes of one machine take its time from each other. */
  machine: string;
  device: string;
  readings: readonly CheckReading[];
}

export interface JudgedReading {
  reading: CheckReading;
  /** Null: nothing to compare with. */
  median: number | null;
  verdict: "ok" | "slow" | "failed";
}

/** What a fleet's nodes are compared with, worked out once for all of them. */
export interface FleetMedians {
  /** By what was examined and name of the check; absent: too few machines. */
  medians: ReadonlyMap<string, number>;
  /** Machines on which there are several nodes of one device. */
  shared: ReadonlySet<string>;
}

/** What a reading is compared among: nodes of one kind, or devices of one name. */
function medianKey(kind: string, { name, device }: CheckReading): string {
  return `${device?.name ?? kind} ${name}`;
}

/** Medians over machines; of several nodes or devices on one, the best counts. Pure. */
export function fleetMedians(fleet: readonly FleetNode[]): FleetMedians {
  const best = new Map<string, Map<string, number>>();
  const seen = new Set<string>();
  const shared = new Set<string>();
  for (const { machine, device, readings } of fleet) {
    const place = `${device} ${machine}`;
    if (seen.has(place)) shared.add(place);
    seen.add(place);
    for (const reading of readings) {
      const { name, ok, value, uncertainty } = reading;
      const comparison = COMPARISONS.get(name);
      if (!ok || comparison === undefined) continue;
      // An answer that was long under way, to a controller that was held up, tells nothing of the others.
      if (comparison.fraction === null && 2 * uncertainty > comparison.limit) continue;
      const key = medianKey(device, reading);
      const byMachine = best.get(key) ?? new Map<string, number>();
      best.set(key, byMachine.set(machine, Math.max(byMachine.get(machine) ?? value, value)));
    }
  }
  const medians = new Map<string, number>();
  for (const [key, byMachine] of best)
    if (byMachine.size >= MACHINE_COUNT_MIN) medians.set(key, medianOf([...byMachine.values()]));
  return { medians, shared };
}

/**
 * Each reading of a node against those of the fleet, its own included. A wrong bit needs no comparison; a slow node is one
 * that is slow among at least MACHINE_COUNT_MIN machines of its kind, and not one that shares its machine. Pure.
 */
export function judgeChecks(node: FleetNode, { medians, shared }: FleetMedians): JudgedReading[] {
  const { device, machine } = node;
  return node.readings.map((reading) => {
    if (!reading.ok) return { reading, median: null, verdict: "failed" };
    const comparison = COMPARISONS.get(reading.name);
    const median = medians.get(medianKey(device, reading)) ?? null;
    if (comparison === undefined || median === null) return { reading, median, verdict: "ok" };
    const slow = !shared.has(`${device} ${machine}`) && isSlow(reading, median, comparison);
    return { reading, median, verdict: slow ? "slow" : "ok" };
  });
}

function isSlow({ value, uncertainty }: CheckReading, median: number, comparison: Comparison): boolean {
  const { fraction, floor, limit } = comparison;
  if (fraction === null) return Math.abs(value - median) - uncertainty > limit;
  return value < fraction * median && (floor === 0 || value < floor);
}

/** Why a node is bad, for people; null: nothing failed and nothing is slow. */
export function badText(judged: readonly JudgedReading[]): string | null {
  const bad = judged.filter(({ verdict }) => verdict !== "ok");
  return bad.length === 0 ? null : bad.map(readingText).join("; ");
}

function readingText({ reading, median, verdict }: JudgedReading): string {
  const { value, unit, detail } = reading;
  const name = subject(reading);
  if (verdict === "failed") return `${name} failed: ${detail}`;
  const comparison = COMPARISONS.get(reading.name)!;
  const against =
    comparison.fraction === null
      ? `more than ${comparison.limit} ${unit} from the fleet's median of ${rounded(median!)}`
      : `below ${comparison.fraction} of the fleet's median of ${rounded(median!)}`;
  return `${name} is ${rounded(value)} ${unit}, ${against}`;
}

/** For example "copy", or "device_copy of device 1 (NVIDIA H200)". */
function subject({ name, device }: CheckReading): string {
  return device === null ? name : `${name} of device ${device.index} (${device.name})`;
}

function rounded(value: number): string {
  return String(Number(value.toPrecision(3)));
}
