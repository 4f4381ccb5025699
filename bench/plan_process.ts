/** One process of bench/plan_figures.ts: it plans once, as one rank does, so that its memory at most is that of one plan. */
import { readFileSync } from "node:fs";
import { CHUNK_BYTES } from "../checkpoint/digest.js";
import { LoadPlan } from "../checkpoint/load_plan.js";
import { type Extent, readPlan, WriterIndex, writePlan } from "../checkpoint/plan.js";
import { STATE_KINDS } from "../checkpoint/state.js";
import { Layout } from "../job/layout.js";
import { MODEL_PRESETS, modelConfigSchema } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";
import { flatUnits, shardPieces } from "../job/sharding.js";

export type ToPlanProcess =
  /** Nothing: what the modules take. */
  | { kind: "idle" }
  /** What a rank in the middle of the layout writes. */
  | { kind: "save"; layout: string }
  /** What a rank in the middle of `to` reads of a checkpoint that `from` wrote, and who reads it for the others. */
  | { kind: "load"; from: string; to: string };
export interface FromPlanProcess {
  /** CPU of all threads of the process. */
  seconds: number;
  /** Most memory it had resident since it began. */
  peakBytes: number;
  /** Writers whose manifests the rank reads; 0 for others than a load. */
  writers: number;
}

/** From the model's shape on, which is all that a rank is told. */
function unitsOf() {
  return flatUnits(parameterSpecs(modelConfigSchema.parse(MODEL_PRESETS["goku-8b"])));
}

const middle = ({ worldSize }: Layout) => Math.floor(worldSize / 2);

function planSave(layout: Layout): void {
  const plan = writePlan(unitsOf(), layout);
  const own = plan.intervals(middle(layout));
  if (own.length === 0 || plan.digest.length !== 64) throw new Error("the plan is wrong");
}

function planLoad(from: Layout, to: Layout): number {
  const units = unitsOf();
  const plan = writePlan(units, from);
  const index = new WriterIndex(units, from);
  const load = new LoadPlan(units, to);
  /** By writer, then tensor; as its manifest says. */
  const manifests = new Map<number, Map<string, Extent>>();
  const held = (writer: number, tensor: string) => {
    let extents = manifests.get(writer);
    if (extents === undefined) {
      extents = new Map(
        plan.intervals(writer).map(({ start, length, ...of }) => [of.tensor, { start, length }]),
      );
      manifests.set(writer, extents);
    }
    return extents.get(tensor)!;
  };
  for (const unit of units) {
    const offsets = new Map(unit.parameters.map(({ spec, offset }) => [spec.name, offset]));
    for (const { parameter, start, length } of shardPieces([unit], to, middle(to))) {
      const first = offsets.get(parameter)!;
      for (const kind of STATE_KINDS) {
        const tensor = `${kind}/${parameter}`;
        const extents = index.writersOf({ tensor, start, length }).map((writer) => held(writer, tensor));
        const steps = readPlan(
          { start, length },
          extents.sort((a, b) => a.start - b.start),
        );
        if (steps === null) throw new Error("the writers do not hold what is wanted");
        for (const { extent, extentOffset, length: taken } of steps) {
          for (const [at, end] of chunksOf(extent, extentOffset, taken)) {
            const chunk = { kind, unit: unit.name, start: first + at, end: first + end };
            if (load.place(chunk) === null) throw new Error("the load plan is wrong");
          }
        }
      }
    }
  }
  return manifests.size;
}

/** Chunks of an extent that hold any of `length` elements from its element `offset` on: [start, end) in the tensor. */
function* chunksOf({ start, length }: Extent, offset: number, taken: number): Generator<[number, number]> {
  const count = CHUNK_BYTES / 4;
  for (let at = offset - (offset % count); at < offset + taken; at += count)
    yield [start + at, start + Math.min(length, at + count)];
}

function execute(order: ToPlanProcess): FromPlanProcess {
  const before = process.cpuUsage();
  let writers = 0;
  if (order.kind === "save") planSave(Layout.parse(order.layout));
  else if (order.kind === "load") writers = planLoad(Layout.parse(order.from), Layout.parse(order.to));
  const { user, system } = process.cpuUsage(before);
  return { seconds: (user + system) / 1e6, peakBytes: peakBytes(), writers };
}

function peakBytes(): number {
  const found = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
  if (found === null) throw new Error("Cannot measure memory: /proc/self/status has no VmHWM");
  return Number(found[1]) * 1024;
}

process.once("message", (order: ToPlanProcess) => {
  process.send!(execute(order), () => process.disconnect());
});
