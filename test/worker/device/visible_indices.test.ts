import assert from "node:assert/strict";
import { test } from "node:test";
import { visibleIndices } from "../../../worker/device/visible_indices.js";

const uuids = ["GPU-aa-1", "GPU-ab-2", "GPU-ac-3"];

test("visibleIndices() is the order that CUDA_VISIBLE_DEVICES gives, by numbers or by UUIDs", () => {
  for (const [visible, indices] of [
    [undefined, [0, 1, 2]],
    ["2,0", [1, null, 0]],
    ["GPU-ab, GPU-aa-1", [1, 0, null]],
    ["1,7,0", [null, 0, null]], // CUDA looks no further than the first that is not there
    ["-1", [null, null, null]],
    ["", [null, null, null]],
    ["MIG-GPU-aa-1/1/0", [0, 1, 2]],
  ] as const)
    assert.deepEqual(visibleIndices(uuids, visible), indices, visible);
});
