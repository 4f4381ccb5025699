import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import type { ParityOptions } from "./parity_rank.js";
import { relativeError, runParity } from "./run_parity.js";

const CASES = ["mixed", "plain_cross", "reference_frame"];
const LAYOUTS = ["1x1x1", "1x2x1", "1x1x2", "2x1x1", "1x2x2", "1x3x1", "1x1x3"];
const PLAIN: ParityOptions = {
  layout: "1x1x1",
  packs: "one",
  bf16: false,
  recompute: "none",
  transport: "auto",
};

async function check(name: string, options: ParityOptions): Promise<void> {
  const lines = await runParity(path.resolve("test/golden", `${name}.safetensors`), options);
  const bad = lines.filter((line) => !line.ok);
  assert.deepEqual(bad, []);
}

for (const name of CASES) {
  for (const layout of LAYOUTS) {
    for (const packs of ["one", "each"] as const) {
      for (const bf16 of [false, true]) {
        test(`${name} on ${layout}, packs ${packs}, ${bf16 ? "bf16" : "fp32"}, agrees with the reference`, async () => {
          await check(name, { ...PLAIN, layout, packs, bf16 });
        });
      }
    }
  }
  test(`${name} with blocks computed again agrees with the reference`, async () => {
    await check(name, { ...PLAIN, recompute: "full" });
    await check(name, { ...PLAIN, recompute: "full", layout: "1x2x2", packs: "each", transport: "tcp" });
  });
}

test("relativeError() lets no NaN and no missing number pass", () => {
  assert.ok(Number.isNaN(relativeError([1, Number.NaN], [1, 2])));
  assert.ok(Number.isNaN(relativeError([1], [1, 2])));
  assert.equal(relativeError([1, 2], [1, 2]), 0);
  assert.equal(relativeError([3, 4], [0, 0]), 5);
});
