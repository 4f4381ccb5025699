import assert from "node:assert/strict";
import { test } from "node:test";
import { Layout } from "../../../job/layout.js";
import { ownPacks } from "../../../worker/rank/own_packs.js";

test("ownPacks() deals packs round-robin over data ranks, all ranks of a sequence alike", () => {
  const layout = Layout.parse("1x2x2");
  assert.deepEqual(
    [0, 1, 2, 3].map((rank) => ownPacks(layout, rank, 3)),
    [
      [0, 2],
      [0, 2],
      [1, null],
      [1, null],
    ],
  );
});

test("ownPacks() gives a rank nothing when there are fewer packs than data ranks", () => {
  assert.deepEqual(ownPacks(Layout.parse("1x3x1"), 2, 2), [null]);
});

test("ownPacks() covers every pack exactly once on every layout", () => {
  for (const text of ["1x1x1", "2x1x3", "2x3x1", "1x5x2"]) {
    const layout = Layout.parse(text);
    const first = Array.from({ length: layout.dataRankCount }, (_, i) => i * layout.sp);
    const all = first.flatMap((rank) => ownPacks(layout, rank, 7)).filter((pack) => pack !== null);
    assert.deepEqual(all.sort(), [0, 1, 2, 3, 4, 5, 6], text);
  }
});
