import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { readSnapshotHeader, snapshotLayout, verifySnapshot } from "../../../checkpoint/snapshot.js";
import { STATE_KINDS, type StateMeta } from "../../../checkpoint/state.js";
import { Layout } from "../../../job/layout.js";
import { flatUnits } from "../../../job/sharding.js";
import { nothingSeen } from "../../../job/spikes.js";
import { loadNative } from "../../../worker/engine/load_native.js";
import { readFloats, writeFloats } from "../../../worker/engine/tensor.js";
import { flipBit } from "../../../worker/rank/flip_bit.js";
import { SnapshotPages } from "../../../worker/rank/snapshot_pages.js";

const native = loadNative();
const layout = Layout.parse("1x2x1");
const RANK = 1;
const units = flatUnits(
  [
    { name: "patch_embed.weight", shape: [9, 7] },
    { name: "blocks.0.norm2.weight", shape: [40] },
    { name: "final_proj.bias", shape: [1] }, // rank 1 holds nothing of the end of a small unit
  ].map((spec) => ({ ...spec, count: spec.shape.reduce((a, b) => a * b, 1) })),
);
const plan = snapshotLayout(units, layout, RANK);

/** Fills a slot, every element its own number, seals it, and returns the numbers. */
function fill(pages: SnapshotPages, index: number, step: number, from: number): number[][] {
  let next = from;
  for (const unit of pages.begin(index, true).tensors) {
    for (const kind of STATE_KINDS) {
      const values = Float32Array.from({ length: unit[kind].count }, () => next++);
      writeFloats(native, unit[kind], 0, values);
    }
  }
  pages.sum(index);
  pages.seal(index, { meta: meta(step), rank: RANK });
  return numbers(pages, index);
}

function numbers(pages: SnapshotPages, index: number): number[][] {
  return pages
    .tensors(index)
    .flatMap((unit) => STATE_KINDS.map((kind) => [...readFloats(native, unit[kind])]));
}

function meta(step: number): StateMeta {
  const state = { generation: "1", step };
  const rest = { parent: null, job: {}, adamStep: step, dataDigest: "d", codec: null, exclusions: [] };
  const history = { leftOut: [], numbers: nothingSeen() };
  return { state, layout: layout.size, version: "0.1.0", ...rest, ...history };
}

function withFolder(body: (folder: string) => Promise<void> | void) {
  return async () => {
    const folder = mkdtempSync("/dev/shm/goku-test-pages-");
    try {
      await body(folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
}

test(
  "SnapshotPages: a bit that turns in a sealed slot, of weights or of any other part of the state, is found",
  withFolder((folder) => {
    const pages = new SnapshotPages(native, folder, plan);
    fill(pages, 0, 1, 1);
    assert.equal(pages.damaged(0), 0);
    flipBit(native, pages.tensors(0));
    assert.equal(pages.damaged(0), 1);
    for (const kind of STATE_KINDS) {
      fill(pages, 1, 2, 1);
      const tensor = pages.tensors(1)[0]![kind];
      writeFloats(native, tensor, tensor.count - 1, Float32Array.of(0.5));
      assert.equal(pages.damaged(1), 1, kind);
    }
    pages.close();
  }),
);

test(
  "SnapshotPages seals a state where it lies, as agents read it",
  withFolder(async (folder) => {
    const pages = new SnapshotPages(native, path.join(folder, "a"), plan);
    assert.deepEqual(pages.states(), [null, null, null, null]);
    fill(pages, 1, 5, 1);
    assert.deepEqual(pages.states(), [null, { generation: "1", step: 5 }, null, null]);
    assert.equal(await verifySnapshot(pages.slotPath(1)), null);
    const header = readSnapshotHeader(pages.slotPath(1))!;
    assert.deepEqual(pages.sum(1), header.checksums);
    const others = new SnapshotPages(native, path.join(folder, "b"), plan, 5);
    assert.equal(others.indexOf(pages.slotPath(1)), null);
    assert.equal(others.states().length, 5);
    pages.close();
    others.close();
  }),
);

test(
  "SnapshotPages takes over what an earlier process left, and replaces files of another size",
  withFolder((folder) => {
    const before = new SnapshotPages(native, folder, plan);
    const written = fill(before, 0, 8, 1);
    before.close();
    writeFileSync(path.join(folder, "slot-2"), "cut off");
    const after = new SnapshotPages(native, folder, plan);
    assert.deepEqual(after.states(), [{ generation: "1", step: 8 }, null, null, null]);
    assert.deepEqual(numbers(after, 0), written);
    assert.equal(readFileSync(path.join(folder, "slot-2")).length, plan.bytes);
    after.close();
  }),
);

test(
  "SnapshotPages keeps every file and no mapping when one cannot be mapped now",
  withFolder((folder) => {
    const before = new SnapshotPages(native, folder, plan);
    fill(before, 2, 8, 1);
    before.close();
    let mapped = 0;
    const failing = {
      ...native,
      pageMap: (file: string, bytes: number) => {
        if (file.endsWith("slot-2")) throw Object.assign(new Error("no memory"), { code: "NATIVE_IO" });
        mapped++;
        return native.pageMap(file, bytes);
      },
      pageUnmap: (page: Uint8Array) => {
        mapped--;
        native.pageUnmap(page);
      },
    };
    assert.throws(() => new SnapshotPages(failing, folder, plan), { code: "NATIVE_IO" });
    assert.equal(mapped, 0);
    const after = new SnapshotPages(native, folder, plan);
    assert.deepEqual(after.states(), [null, null, { generation: "1", step: 8 }, null]);
    after.close();
  }),
);

test(
  "SnapshotPages leaves a slot that is not whole from its begin on, or when it was found damaged",
  withFolder((folder) => {
    const pages = new SnapshotPages(native, folder, plan);
    fill(pages, 0, 3, 1);
    pages.begin(0, false);
    assert.equal(readSnapshotHeader(pages.slotPath(0)), null);
    fill(pages, 1, 5, 1);
    pages.spoil(pages.slotPath(1));
    assert.deepEqual(pages.states(), [null, null, null, null]);
    pages.close();
  }),
);
