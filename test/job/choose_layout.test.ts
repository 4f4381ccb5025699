import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { chooseLayout } from "../../job/choose_layout.js";
import { Layout } from "../../job/layout.js";
import { resolveJob } from "../../job/load_job.js";

function job(packs: number, layout: unknown = "auto") {
  return resolveJob({
    name: "j",
    data: { media: "m" },
    layout,
    train: { steps: 1, packs_per_step: packs },
    checkpoint: { uri: "file://x" },
  });
}

describe("chooseLayout()", () => {
  const table: [slots: number[], packs: number, layout: string][] = [
    [[1], 4, "1x1x1"],
    [[2, 2], 4, "1x4x1"],
    [[2, 1], 4, "1x3x1"],
    [[4, 4], 4, "1x4x2"],
    [[3, 3], 4, "1x2x3"],
    [[4, 0, 4], 2, "1x2x4"],
    [[5, 5], 2, "1x10x1"], // 5 does not fit 4 heads, so sp stays 1
    [Array<number>(32).fill(8), 256, "4x64x1"],
    [Array<number>(32).fill(8), 128, "4x32x2"],
    [[67], 100, "1x67x1"],
  ];
  for (const [slots, packs, layout] of table) {
    it(`lays out ${slots.length} nodes of ${slots[0]} slots for ${packs} packs as ${layout}`, () => {
      const choice = chooseLayout({ slots, job: job(packs) });
      assert.equal(new Layout(choice.layout).toString(), layout, choice.reason);
      assert.ok(choice.reason.includes(layout), choice.reason);
    });
  }

  it("keeps every sequence group inside a node", () => {
    for (const slots of [
      [4, 2],
      [6, 4, 2],
      [8, 8],
      [3, 6],
      [1, 8],
    ]) {
      const layout = new Layout(chooseLayout({ slots, job: job(1) }).layout);
      const nodeOf = slots.flatMap((count, node) => Array<number>(count).fill(node));
      for (let rank = 0; rank < layout.worldSize; rank++) {
        const nodes = new Set(layout.sequenceGroup(rank).map((member) => nodeOf[member]));
        assert.equal(nodes.size, 1, `${slots}: ${layout}`);
      }
    }
  });

  it("says how many ranks have no pack", () => {
    assert.match(
      chooseLayout({ slots: [5, 5], job: job(2) }).reason,
      /8 without a pack: raise train.packs_per_step/,
    );
    // 8 groups of 2 ranks, for 3 packs
    assert.match(
      chooseLayout({ slots: Array(8).fill(2), job: job(3) }).reason,
      /sp 2 .* 10 without a pack: raise train.packs_per_step/,
    );
  });

  it("takes a layout of the job as it is, and prints the arithmetic when it does not fit", () => {
    const written = { dp_replicate: 1, dp_shard: 2, sp: 2 };
    assert.deepEqual(chooseLayout({ slots: [2, 2], job: job(4, written) }), {
      layout: written,
      reason: "layout 1x2x2 is set in the job",
    });
    assert.throws(() => chooseLayout({ slots: [3], job: job(4, written) }), {
      code: "LAYOUT_INVALID",
      message: "Cannot lay out 3 ranks: dp_replicate 1 * dp_shard 2 * sp 2 = 4",
    });
    assert.throws(() => chooseLayout({ slots: [], job: job(4) }), { code: "LAYOUT_INVALID" });
  });
});
