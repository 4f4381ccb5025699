import assert from "node:assert/strict";
import path from "node:path";
import { before, describe, test } from "node:test";
import type { ParityRun, ParityWorld } from "./parity_rank.js";
import { type ParityLine, relativeError, runParity } from "./run_parity.js";

const CASES = ["mixed", "plain_cross", "reference_frame"];
const LAYOUTS = ["1x1x1", "1x2x1", "1x1x2", "2x1x1", "1x2x2", "1x3x1", "1x1x3"];

/** Every case in one pack and in many, fp32 and bf16. */
function allRuns(recompute: ParityRun["recompute"]): ParityRun[] {
  return CASES.flatMap((name) =>
    [false, true].flatMap((bf16) =>
      (["one", "each"] as const).map((packs) => ({
        path: path.resolve("test/golden", `${name}.safetensors`),
        packs,
        bf16,
        recompute,
      })),
    ),
  );
}

function agrees(title: string, runs: ParityRun[], world: ParityWorld): void {
  describe(title, () => {
    let results: ParityLine[][];
    before(async () => {
      results = await runParity(runs, world);
    });
    for (const [i, run] of runs.entries()) {
      const name = path.basename(run.path, ".safetensors");
      test(`${name}, packs ${run.packs}, ${run.bf16 ? "bf16" : "fp32"}`, () => {
        assert.deepEqual(
          results[i]!.filter((line) => !line.ok),
          [],
        );
      });
    }
  });
}

for (const layout of LAYOUTS) {
  agrees(`${layout} agrees with the reference`, allRuns("none"), { layout, transport: "auto" });
}
agrees("blocks computed again agree with the reference", allRuns("full"), {
  layout: "1x1x1",
  transport: "auto",
});
agrees("blocks computed again over TCP agree with the reference", allRuns("full"), {
  layout: "1x2x2",
  transport: "tcp",
});

test("relativeError() lets no NaN and no missing number pass", () => {
  assert.ok(Number.isNaN(relativeError([1, Number.NaN], [1, 2])));
  assert.ok(Number.isNaN(relativeError([1], [1, 2])));
  assert.equal(relativeError([1, 2], [1, 2]), 0);
  assert.equal(relativeError([3, 4], [0, 0]), 5);
});
