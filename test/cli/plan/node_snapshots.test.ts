import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { snapshotLayout } from "../../../checkpoint/snapshot.js";
import { nodeSnapshots } from "../../../cli/plan/node_snapshots.js";
import { Layout } from "../../../job/layout.js";
import { MODEL_PRESETS, modelConfigSchema } from "../../../job/model_config.js";
import { parameterSpecs } from "../../../job/parameters.js";
import { flatUnits } from "../../../job/sharding.js";
import { loadNative } from "../../../worker/engine/load_native.js";
import { SnapshotPages } from "../../../worker/rank/snapshot_pages.js";

const folder = mkdtempSync("/dev/shm/goku-test-plan-");
after(() => rmSync(folder, { recursive: true }));
const units = flatUnits(parameterSpecs(modelConfigSchema.parse(MODEL_PRESETS["goku-nano"])));

const plan = (layout: string, nodes: number, slots: number, replicas = 1) =>
  nodeSnapshots({ units, layout: Layout.parse(layout), nodes, slots, replicas });

test("nodeSnapshots() is what the slot files of a node's ranks take, to the byte", () => {
  for (const text of ["1x2x2", "1x3x1", "2x2x1"]) {
    const layout = Layout.parse(text);
    const planned = plan(text, 1, layout.worldSize);
    let bytes = 0;
    for (let rank = 0; rank < layout.worldSize; rank++) {
      const set = path.join(folder, text, String(rank));
      const pages = new SnapshotPages(
        loadNative(),
        set,
        snapshotLayout(units, layout, rank),
        planned.slotCount,
      );
      for (const file of readdirSync(set)) bytes += 512 * statSync(path.join(set, file)).blocks;
      pages.close();
    }
    // The size of a file is whole 64 bytes, its memory whole pages.
    const pagesMost = 4096 * planned.slotCount * layout.worldSize;
    assert.ok(
      bytes >= planned.ownBytes && bytes < planned.ownBytes + pagesMost,
      `${bytes}, ${planned.ownBytes}`,
    );
  }
});

test("nodeSnapshots(): one node keeps nothing for others, and its ranks have four slots", () => {
  const { slotCount, keptBytes, sentBytes } = plan("1x4x1", 1, 4);
  assert.deepEqual({ slotCount, keptBytes, sentBytes }, { slotCount: 4, keptBytes: 0, sentBytes: 0 });
});

test("nodeSnapshots(): of two nodes each sends its states to the other, which keeps two of each, beside five slots", () => {
  const { slotCount, slotBytes, ownBytes, keptRanks, keptBytes, sentBytes } = plan("1x4x1", 2, 2);
  assert.equal(slotCount, 5);
  assert.equal(keptRanks, 2);
  assert.ok(ownBytes <= 2 * 5 * slotBytes && keptBytes <= 2 * 2 * slotBytes && sentBytes <= 2 * slotBytes);
  assert.ok(ownBytes > 2 * 4 * slotBytes && keptBytes > 3 * slotBytes && sentBytes > slotBytes);
});

test("nodeSnapshots(): twins on other nodes cost nothing, and neither do jobs without replicas", () => {
  for (const planned of [plan("2x2x1", 2, 2), plan("1x4x1", 2, 2, 0)]) {
    assert.equal(planned.slotCount, 4);
    assert.equal(planned.keptBytes + planned.sentBytes, 0);
  }
});
