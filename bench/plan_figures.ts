import { planDigest, writePlan } from "../checkpoint/plan.js";
import { Layout } from "../job/layout.js";
import { MODEL_PRESETS, modelConfigSchema } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";
import { flatUnits } from "../job/sharding.js";

export interface PlanFigure {
  name: string;
  value: number;
  unit: string;
  limit: number | null;
}

/** What planning costs one rank of 8,192 that train 8B parameters: its own write plan, and the digest that is compared. */
export function planFigures(): PlanFigure[] {
  const units = flatUnits(parameterSpecs(modelConfigSchema.parse(MODEL_PRESETS["goku-8b"])));
  const layout = new Layout({ dp_replicate: 8, dp_shard: 256, sp: 4 });
  globalThis.gc?.();
  const before = process.memoryUsage().rss;
  const begun = performance.now();
  const plan = writePlan(units, layout);
  const own = plan.intervals(5000);
  const seconds = (performance.now() - begun) / 1000;
  const bytes = Math.max(0, process.memoryUsage().rss - before);
  if (own.length === 0 || plan.digest !== planDigest(units, layout)) throw new Error("the plan is wrong");
  return [
    { name: "write plan of a rank, 8B over 8,192 ranks", value: seconds, unit: "s", limit: 1 },
    { name: "memory for it", value: bytes / 2 ** 20, unit: "MiB", limit: 200 },
  ];
}
