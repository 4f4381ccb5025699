import { tensorBytes } from "./block_memory.js";
import type { Layout } from "./layout.js";
import type { ModelConfig } from "./model_config.js";
import { parameterSpecs } from "./parameters.js";
import { flatUnits, shardRange } from "./sharding.js";

/** Of a rank's training state: fp32 weights, their average, and both moments. */
export const STATE_KIND_COUNT = 4;

/** Device memory of one of these kinds: a tensor for the shard of each unit. */
export function stateKindBytes(options: { model: ModelConfig; layout: Layout; rank: number }): number {
  const { model, layout, rank } = options;
  const parts = layout.shardGroupSize;
  return flatUnits(parameterSpecs(model)).reduce(
    (sum, { count }) => sum + tensorBytes(shardRange({ count, parts, index: rank % parts }).length, 4),
    0,
  );
}
