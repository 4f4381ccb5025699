import assert from "node:assert/strict";
import { test } from "node:test";
import { Layout } from "../../job/layout.js";
import { stepMemory } from "../../job/step_memory.js";
import { fleetJob, TINY, trainFleet } from "../worker/parallel/fleet.js";

const PACKS = 2;
const pack = { grids: Array<[number, number, number]>(3).fill([1, 2, 4]), textLengths: [3, 3, 3] };
const size = { tokens: 24, samples: 3, textTokens: 9 };

for (const [text, precision] of [
  ["1x1x1", "bf16"],
  ["1x2x1", "fp32"],
] as const) {
  test(`the device's high-water mark is what stepMemory() says, to the byte: ${text}, ${precision}`, async () => {
    const job = fleetJob({
      packs: PACKS,
      steps: 2,
      precision,
      recompute: "selective",
      flow: { drop_text: 0 },
    });
    const results = await trainFleet({ layout: text, job, pack });
    for (const [rank, { peaks, leaks }] of results.entries()) {
      const planned = stepMemory({
        model: TINY,
        layout: Layout.parse(text),
        rank,
        precision,
        recompute: "selective",
        packsPerStep: PACKS,
        pack: size,
        productBytes: () => 0, // memory of a launch is not the allocator's
        afterSelf: true,
      }).total;
      assert.deepEqual(new Set(peaks), new Set([planned]));
      assert.deepEqual(new Set(leaks), new Set([0]));
    }
  });
}
