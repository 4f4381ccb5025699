import assert from "node:assert/strict";
import { test } from "node:test";
import { gpuMemory } from "../../job/gpu_memory.js";
import { Layout } from "../../job/layout.js";
import { MODEL_PRESETS, modelConfigSchema } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";

const model = modelConfigSchema.parse(MODEL_PRESETS["goku-8b"]);
const parameters = parameterSpecs(model).reduce((sum, { count }) => sum + count, 0);
const TOKENS = 14_400;

const memory = (layout: string, recompute: "none" | "selective" | "full") =>
  gpuMemory({
    model,
    layout: Layout.parse(layout),
    rank: 0,
    precision: "bf16",
    recompute,
    packsPerStep: 64,
    pack: { tokens: TOKENS, samples: 1, textTokens: 1 },
  });

const near = (found: number, wanted: number, within: number) =>
  assert.ok(Math.abs(found / wanted - 1) <= within, `${found}, want ${wanted}`);

test("gpuMemory(): optimizer and EMA are 12 bytes a parameter over the shard group, whatever the replicas", () => {
  for (const layout of ["1x8x1", "1x2x4", "4x8x1"]) {
    const { optimizer, ema } = memory(layout, "selective");
    near(optimizer + ema, (12 * parameters) / 8, 1e-4);
  }
});

test("gpuMemory(): selective keeps 14 D numbers a token and block, none 25 D, full D", () => {
  for (const [recompute, widths] of [
    ["selective", 14],
    ["none", 25],
    ["full", 1],
  ] as const) {
    // What is not of width D (sums of norms, log-sum-exps, the embedding) is a few hundredths; of full it counts for more.
    near(memory("1x8x1", recompute).activations, widths * model.width * 2 * TOKENS * model.depth, 0.06);
  }
});

test("gpuMemory(): a sequence over 8 ranks keeps an eighth of 17 D: q, k and attention's output are there at tokens and at heads", () => {
  const [whole, part] = [memory("1x8x1", "selective"), memory("1x1x8", "selective")];
  near(part.activations, (17 / 14) * (whole.activations / 8), 0.06);
});

test("gpuMemory(): the kinds add up", () => {
  const { total, ...kinds } = memory("1x8x1", "full");
  assert.equal(
    total,
    Object.values(kinds).reduce((a, b) => a + b),
  );
});
