/**
 * What it costs one rank to plan a save, and a load at any other layout, of 8B parameters over thousands of ranks. Each plan
 * is made in a process of its own: CPU of all its threads, and the most memory it had over that of one that only loaded the
 * modules.
 * Run alone: node dist/bench/plan_figures.js
 */
import { fork } from "node:child_process";
import { median } from "../job/median.js";
import { judge } from "./figures.js";
import { nextMessage } from "./next_message.js";
import type { FromPlanProcess, ToPlanProcess } from "./plan_process.js";

export interface PlanFigure {
  name: string;
  value: number;
  unit: string;
  limit: number | null;
}

/** dp_replicate x dp_shard x sp, from one shard group of all ranks to groups of eight, whose ranks hold 16 GB each. */
const LAYOUTS_8192 = ["1x8192x1", "1x1024x8", "8x256x4", "64x16x8", "128x64x1", "1024x1x8"];
const LAYOUTS_6144 = ["1x6144x1", "1x1536x4", "48x16x8", "96x64x1", "768x1x8"];
/** Where each rank holds all 128 GB, which came in parts for 8,192: as many intervals as such a checkpoint has. */
const WHOLE = { kind: "load", from: "1x8192x1", to: "8192x1x1" } as const;
const LIMITS = { seconds: 1, mebibytes: 200 };
const IDLE_COUNT = 5;

interface Planned extends FromPlanProcess {
  name: string;
}

async function planned(order: ToPlanProcess): Promise<FromPlanProcess> {
  const child = fork(new URL("./plan_process.js", import.meta.url));
  child.send(order);
  return nextMessage<FromPlanProcess>(child);
}

/** Every layout's save; a load at every layout of what any other one has saved. The worst of each counts. */
export async function planFigures(): Promise<PlanFigure[]> {
  const layouts = [...LAYOUTS_8192, ...LAYOUTS_6144];
  const idle: number[] = [];
  for (let i = 0; i < IDLE_COUNT; i++) idle.push((await planned({ kind: "idle" })).peakBytes);
  const saves: Planned[] = [];
  const loads: Planned[] = [];
  for (const from of layouts) {
    saves.push({ name: from, ...(await planned({ kind: "save", layout: from })) });
    for (const to of layouts)
      if (to !== from)
        loads.push({ name: `${from} to ${to}`, ...(await planned({ kind: "load", from, to })) });
  }
  const writers = worst(loads, "writers");
  const whole = [{ name: `${WHOLE.from} to ${WHOLE.to}`, ...(await planned(WHOLE)) }];
  return [
    ...figuresOf(`plan of a save, worst of ${saves.length}`, saves, median(idle)),
    ...figuresOf(`plan of a load, worst of ${loads.length} pairs`, loads, median(idle)),
    { name: `  manifests that it reads, ${writers.name}`, value: writers.writers, unit: "", limit: null },
    ...figuresOf("plan of a load", whole, median(idle)).map((figure) => ({ ...figure, limit: null })),
  ];
}

function figuresOf(what: string, plans: readonly Planned[], idleBytes: number): PlanFigure[] {
  const slow = worst(plans, "seconds");
  const large = worst(plans, "peakBytes");
  const mebibytes = (large.peakBytes - idleBytes) / 2 ** 20;
  return [
    { name: `${what}: ${slow.name}`, value: slow.seconds, unit: "s of CPU", limit: LIMITS.seconds },
    { name: `  its memory, ${large.name}`, value: mebibytes, unit: "MiB", limit: LIMITS.mebibytes },
  ];
}

function worst(plans: readonly Planned[], key: "seconds" | "peakBytes" | "writers"): Planned {
  return plans.reduce((most, plan) => (plan[key] > most[key] ? plan : most));
}

export function printFigures(figures: readonly PlanFigure[]): void {
  for (const { name, value, unit, limit } of figures) {
    const verdict = limit === null ? "" : `limit ${limit} ${unit}  ${judge(value, limit)}`;
    console.log(`${name.padEnd(64)}${`${value.toFixed(3)} ${unit}`.padStart(20)}  ${verdict}`);
  }
}

if (process.argv[1] === import.meta.filename) printFigures(await planFigures());
