import assert from "node:assert/strict";
import { test } from "node:test";
import { modelConfigSchema } from "../../../job/model_config.js";
import { packShape } from "../../../worker/model/pack_context.js";
import { packWork } from "../../../worker/model/pack_work.js";

const MODEL = modelConfigSchema.parse({
  depth: 2,
  width: 8,
  heads: 4,
  text_width: 3,
  latent_channels: 1,
  frequency_width: 4,
});
const GRIDS = [
  [1, 2, 3],
  [2, 2, 2],
] as const;
const TEXT = [4, 1];

test("packWork() counts the matrix products of one pack, by hand", () => {
  const [N, L, D, W, P] = [14, 5, 8, 3, 4];
  const linear = N * (4 + 2 + 8) * D * D + 2 * L * W * D + 2 * 6 * D * D;
  const attention = 2 * D * (6 * 6 + 8 * 8) + 2 * D * (6 * 4 + 8 * 1);
  const ends = 2 * N * P * D;
  const time = 2 * (4 * D + 3 * D * D);
  assert.equal(packWork(packShape(GRIDS, TEXT), MODEL, 4), 2 * (linear + attention) + ends + time);
});

test("packWork() of a sequence's parts adds up to that of the whole but for what every rank does, uneven heads counted", () => {
  const whole = packWork(packShape(GRIDS, TEXT), MODEL, 4);
  const parts = [3, 1].map((heads, index) =>
    packWork(packShape(GRIDS, TEXT, { parts: 2, index }), MODEL, heads),
  );
  const [D, L, W] = [8, 5, 3];
  const everyRank = 2 * (2 * L * W * D + 2 * 6 * D * D) + 2 * (4 * D + 3 * D * D);
  assert.equal(parts[0]! + parts[1]!, whole + everyRank);
  assert.ok(parts[0]! > parts[1]!, "three heads of four are more work than one");
});
