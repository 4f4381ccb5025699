import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { before, describe, test } from "node:test";
import type { Job } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import { Random } from "../../checkpoint/fixtures.js";
import { runRanks } from "../../support/rank_process.js";
import { fleetJob } from "../parallel/fleet.js";
import type { ChainResult, ChainTask, Leg } from "./layout_chain_rank.js";

const STEPS = 50;

/** Every layout of at most eight ranks. */
const LAYOUTS = [1, 2, 3, 4, 5, 6, 7, 8].flatMap((world) =>
  [1, 2, 3, 4, 5, 6, 7, 8].flatMap((replicate) =>
    [1, 2, 3, 4, 5, 6, 7, 8]
      .filter((shard) => world % (replicate * shard) === 0)
      .map((shard) => `${replicate}x${shard}x${world / (replicate * shard)}`),
  ),
);

/** Rank 0's figures of each step, trained on one layout after another. */
async function trainChain(job: Job, legs: Leg[]): Promise<ChainResult> {
  const folder = mkdtempSync("/dev/shm/goku-chain-");
  try {
    const worlds = legs.map(({ layout }) => Layout.parse(layout).worldSize);
    const module = new URL("./layout_chain_rank.js", import.meta.url);
    const results = await runRanks<ChainTask, ChainResult>(module, Math.max(...worlds), {
      ...{ job, legs, folder },
    });
    return results[0]!;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Another layout after each step or two. */
function randomLegs(seed: number, layouts: readonly string[]): Leg[] {
  const random = new Random(seed);
  const legs: Leg[] = [];
  for (let until = 0; until < STEPS; ) {
    until = Math.min(STEPS, until + 1 + random.below(2));
    legs.push({ layout: random.pick(layouts), from: random.pick(["memory", "durable"]), until });
  }
  return legs;
}

function figures(found: ChainResult): unknown {
  return found.map(({ step, loss, gradNorm }) => ({ step, loss, gradNorm }));
}

/** Largest difference to the undisturbed run, relative. */
function worst(found: ChainResult, want: ChainResult, key: "loss" | "gradNorm", steps = STEPS): number {
  assert.deepEqual(
    found.map(({ step }) => step),
    want.map(({ step }) => step),
  );
  return Math.max(
    ...want.slice(0, steps).map((one, i) => Math.abs(found[i]![key]! - one[key]!) / Math.abs(one[key]!)),
  );
}

for (const precision of ["fp32", "bf16"] as const) {
  describe(`a run in ${precision} that goes on at another layout after every step or two`, () => {
    const job = fleetJob({ packs: 3, steps: STEPS, precision });
    let undisturbed: ChainResult;
    before(async () => {
      undisturbed = await trainChain(job, [{ layout: "1x1x1", from: "durable", until: STEPS }]);
    });

    test("has the bits of one that never did where only the shards change", async () => {
      const sharded = LAYOUTS.filter((layout) => /^1x\dx1$/.test(layout));
      const found = await trainChain(job, randomLegs(6, sharded));
      assert.deepEqual(figures(found), figures(undisturbed));
    });

    // In bf16 a model as small as this one is far less even: a run that stays at 1x2x4 differs by 3e-3 from one at 1x1x1.
    if (precision === "bf16") return;
    for (const seed of [1, 2, 3, 4]) {
      test(`has the losses of one that never did, over all ${LAYOUTS.length} layouts (seed ${seed})`, async () => {
        const found = await trainChain(job, randomLegs(seed, LAYOUTS));
        assert.ok(worst(found, undisturbed, "loss", 10) <= 1e-6);
        assert.ok(worst(found, undisturbed, "loss") <= 1e-5);
        assert.ok(worst(found, undisturbed, "gradNorm") <= 1e-5);
      });
    }
  });
}
