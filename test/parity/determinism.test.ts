/**
 * The determinism contract on goku-nano: 50 steps on one rank and on six other layouts with up to six ranks.
 * Same layout: the same bits. Another layout: losses within 1e-6 over ten steps and 1e-5 at step 50, gradient norms
 * within 1e-5 at every step (fp32); losses within 1e-3 and 1e-2 (bf16). 1xNx1 in fp32: the bits of 1x1x1.
 */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { MODEL_PRESETS, modelConfigSchema } from "../../job/model_config.js";
import { loadNative } from "../../worker/engine/load_native.js";
import { onEmulatedDevice } from "../support/emulated_device.js";
import { type FleetResult, fleetJob, TINY, trainFleet, wholeState } from "../worker/parallel/fleet.js";

/** On the emulated device: a tiny model, few steps, and one layout of each kind. */
const STEPS = onEmulatedDevice ? 5 : 50;
const MODEL = onEmulatedDevice ? TINY : modelConfigSchema.parse(MODEL_PRESETS["goku-nano"]);
const LAYOUTS = onEmulatedDevice
  ? ["1x2x1", "1x1x2", "2x1x1"]
  : ["1x2x1", "1x1x2", "2x1x1", "1x2x2", "2x1x3", "1x6x1"];
const TOLERANCE = {
  fp32: { early: 1e-6, late: 1e-5, norm: 1e-5 },
  bf16: { early: 1e-3, late: 1e-2, norm: null },
} as const;

function train(layout: string, precision: "fp32" | "bf16"): Promise<FleetResult[]> {
  const job = fleetJob({
    packs: 3,
    steps: STEPS,
    precision,
    flow: {},
    optimizer: { lr: 1e-3, warmup_steps: 10, schedule: "cosine" },
  });
  return trainFleet({ layout, job, model: MODEL });
}

function worst(found: readonly number[], want: readonly number[]): number {
  return Math.max(...found.map((value, i) => Math.abs(value - want[i]!) / Math.abs(want[i]!)));
}

for (const precision of ["fp32", "bf16"] as const) {
  describe(`${onEmulatedDevice ? "a tiny model" : "goku-nano"}, ${STEPS} steps in ${precision}`, () => {
    const limit = TOLERANCE[precision];
    let one: FleetResult;
    let state: Map<string, Float32Array>;
    before(async () => {
      const results = await train("1x1x1", precision);
      one = results[0]!;
      state = wholeState(results);
      assert.equal(one.applied.filter(Boolean).length, STEPS);
    });

    // In five steps it does not.
    test("the loss falls", { skip: onEmulatedDevice && "too few on the emulated device" }, () => {
      const mean = (from: number) =>
        one.votes.slice(from, from + 10).reduce((sum, vote) => sum + vote.loss, 0) / 10;
      assert.ok(mean(STEPS - 10) < mean(0));
    });

    for (const layout of LAYOUTS) {
      test(`${layout} keeps the contract`, async () => {
        const results = await train(layout, precision);
        const { votes } = results[0]!;
        const losses = votes.map((vote) => vote.loss);
        const norms = votes.map((vote) => vote.gradNorm);
        const want = one.votes.map((vote) => vote.loss);
        const wantNorms = one.votes.map((vote) => vote.gradNorm);
        const early = worst(losses.slice(0, 10), want.slice(0, 10));
        const late = worst(losses.slice(-1), want.slice(-1));
        assert.ok(early <= limit.early, `losses of ten steps are off by ${early}`);
        assert.ok(late <= limit.late, `the last loss is off by ${late}`);
        if (limit.norm !== null) {
          const norm = worst(norms, wantNorms);
          assert.ok(norm <= limit.norm, `gradient norms are off by ${norm}`);
        }
        if (precision === "fp32" && /^1x\d+x1$/.test(layout)) assert.deepEqual(wholeState(results), state);
      });
    }

    test("1x2x2 twice gives identical bits", async () => {
      const job = fleetJob({ packs: 3, steps: 5, precision });
      const first = await trainFleet({ layout: "1x2x2", job, model: MODEL });
      const second = await trainFleet({ layout: "1x2x2", job, model: MODEL });
      assert.deepEqual(first[0]!.votes, second[0]!.votes);
      assert.deepEqual(wholeState(first), wholeState(second));
    });

    const threaded = loadNative().devices().length === 0;
    test("1x1x1 gives identical bits with any thread count", {
      skip: !threaded && "a device has none",
    }, async () => {
      const job = fleetJob({ packs: 3, steps: 5, precision });
      const one = await trainFleet({ layout: "1x1x1", job, model: MODEL });
      for (const threads of [2, 3]) {
        const more = await trainFleet({ layout: "1x1x1", job, model: MODEL, threads });
        assert.deepEqual(more[0]!.votes, one[0]!.votes);
        assert.deepEqual(wholeState(more), wholeState(one));
      }
    });
  });
}
