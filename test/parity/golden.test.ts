import assert from "node:assert/strict";
import path from "node:path";
import { before, describe, test } from "node:test";
import { onEmulatedDevice } from "../support/emulated_device.js";
import type { ParityRun, ParityWorld } from "./parity_rank.js";
import { type ParityLine, relativeError, runParity } from "./run_parity.js";

/** On the emulated device: every case on one rank in both precisions, and `mixed` once in each on every other layout. */
const CASES = ["mixed", "plain_cross", "reference_frame"];
const LAYOUTS = ["1x1x1", "1x2x1", "1x1x2", "2x1x1", "1x2x2", "1x3x1", "1x1x3"];

/** Every case in one pack and in many, fp32 and bf16. */
function allRuns(recompute: ParityRun["recompute"]): ParityRun[] {
  return CASES.flatMap((name) =>
    [false, true].flatMap((bf16) =>
      (["one", "each"] as const).map((packs) => ({ path: casePath(name), packs, bf16, recompute })),
    ),
  );
}

function runsOn(world: ParityWorld, recompute: ParityRun["recompute"]): ParityRun[] {
  const all = allRuns(recompute);
  if (!onEmulatedDevice) return all;
  const alone = world.layout === "1x1x1" && recompute === "none";
  return all.filter(
    (run) => run.packs === (run.bf16 ? "each" : "one") && (alone || run.path === casePath("mixed")),
  );
}

function casePath(name: string): string {
  return path.resolve("test/golden", `${name}.safetensors`);
}

function agrees(title: string, recompute: ParityRun["recompute"], world: ParityWorld): void {
  const runs = runsOn(world, recompute);
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
  agrees(`${layout} agrees with the reference`, "none", { layout, transport: "auto" });
}
agrees("blocks computed again agree with the reference", "full", {
  layout: "1x1x1",
  transport: "auto",
});
agrees("blocks computed again over TCP agree with the reference", "full", {
  layout: "1x2x2",
  transport: "tcp",
});

test("relativeError() lets no NaN and no missing number pass", () => {
  assert.ok(Number.isNaN(relativeError([1, Number.NaN], [1, 2])));
  assert.ok(Number.isNaN(relativeError([1], [1, 2])));
  assert.equal(relativeError([1, 2], [1, 2]), 0);
  assert.equal(relativeError([3, 4], [0, 0]), 5);
});
