import { LoadPlan } from "../checkpoint/load_plan.js";
import { planDigest, WriterIndex, writePlan } from "../checkpoint/plan.js";
import { STATE_KINDS } from "../checkpoint/state.js";
import { Layout } from "../job/layout.js";
import { MODEL_PRESETS, modelConfigSchema } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";
import { flatUnits, shardPieces } from "../job/sharding.js";

export interface PlanFigure {
  name: string;
  value: number;
  unit: string;
  limit: number | null;
}

/**
 * What planning costs one rank of 8,192 that train 8B parameters: its own write plan with the digest that is compared; then,
 * at another layout of 6,144 ranks, which of the 8,192 writers hold its part, and who reads it.
 */
export function planFigures(): PlanFigure[] {
  const units = flatUnits(parameterSpecs(modelConfigSchema.parse(MODEL_PRESETS["goku-8b"])));
  const layout = new Layout({ dp_replicate: 8, dp_shard: 256, sp: 4 });
  const before = process.memoryUsage().rss;
  const begun = performance.now();
  const plan = writePlan(units, layout);
  const own = plan.intervals(5000);
  const seconds = (performance.now() - begun) / 1000;
  const bytes = Math.max(0, process.memoryUsage().rss - before);
  if (own.length === 0 || plan.digest !== planDigest(units, layout)) throw new Error("the plan is wrong");
  const wide = new Layout({ dp_replicate: 1, dp_shard: 1536, sp: 4 });
  const [rssBefore, readBegun] = [process.memoryUsage().rss, performance.now()];
  const index = new WriterIndex(units, layout);
  const load = new LoadPlan(units, wide);
  const writers = new Set<number>();
  for (const unit of units) {
    for (const { parameter, start, length } of shardPieces([unit], wide, 4000)) {
      const at = unit.parameters.find(({ spec }) => spec.name === parameter)!.offset + start;
      for (const kind of STATE_KINDS) {
        for (const writer of index.writersOf({ tensor: `${kind}/${parameter}`, start, length }))
          writers.add(writer);
        if (load.place({ kind, unit: unit.name, start: at, end: at + length }) === null)
          throw new Error("the load plan is wrong");
      }
    }
  }
  const readSeconds = (performance.now() - readBegun) / 1000;
  const readBytes = Math.max(0, process.memoryUsage().rss - rssBefore);
  return [
    { name: "write plan of a rank, 8B over 8,192 ranks", value: seconds, unit: "s", limit: 1 },
    { name: "memory for it", value: bytes / 2 ** 20, unit: "MiB", limit: 200 },
    { name: "read plan of a rank of 6,144 from there", value: readSeconds, unit: "s", limit: 1 },
    { name: "memory for it", value: readBytes / 2 ** 20, unit: "MiB", limit: 200 },
    { name: "manifests that it reads, of 8,192", value: writers.size, unit: "", limit: null },
  ];
}
