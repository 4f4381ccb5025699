import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { readSnapshotHeader, snapshotLayout, verifySnapshot } from "../../../checkpoint/snapshot.js";
import { STATE_KINDS, type StateMeta } from "../../../checkpoint/state.js";
import { Layout } from "../../../job/layout.js";
import { flatUnits } from "../../../job/sharding.js";
import { loadNative } from "../../../worker/engine/load_native.js";
import { Arena, readFloats } from "../../../worker/engine/tensor.js";
import { SnapshotPages, type StateShard } from "../../../worker/rank/snapshot_pages.js";

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

/** Shards as a trainer has them, every element its own number. */
function shards(arena: Arena, from: number): StateShard[] {
  let next = from;
  return units.map((unit) => {
    const count = plan.entries.find((entry) => entry.unit === unit.name)!.count;
    const tensor = () =>
      arena.from(
        Float32Array.from({ length: count }, () => next++),
        "f32",
        count,
      );
    return { unit, model: tensor(), ema: tensor(), adam_m: tensor(), adam_v: tensor() };
  });
}

function numbers(all: readonly StateShard[]): number[][] {
  return all.flatMap((shard) => STATE_KINDS.map((kind) => [...readFloats(native, shard[kind])]));
}

function meta(step: number): StateMeta {
  const state = { generation: "1", step };
  const rest = { parent: null, job: {}, adamStep: step, dataDigest: "d", codec: null, exclusions: [] };
  return { state, layout: layout.size, version: "0.1.0", ...rest };
}

function withPages(body: (folder: string, arena: Arena) => Promise<void> | void) {
  return async () => {
    const folder = mkdtempSync("/dev/shm/goku-test-pages-");
    const arena = new Arena(native);
    try {
      await body(folder, arena);
    } finally {
      arena.freeAll();
      rmSync(folder, { recursive: true });
    }
  };
}

test(
  "SnapshotPages copies shards into a slot and back, bit for bit, also from another set's file",
  withPages(async (folder, arena) => {
    const written = shards(arena, 1);
    const pages = new SnapshotPages(native, path.join(folder, "a"), plan);
    assert.deepEqual(pages.states(), [null, null, null]);
    pages.write(1, written, { meta: meta(5), rank: RANK });
    assert.deepEqual(pages.states(), [null, { generation: "1", step: 5 }, null]);
    assert.equal(await verifySnapshot(pages.slotPath(1)), null);
    for (const reader of [pages, new SnapshotPages(native, path.join(folder, "b"), plan)]) {
      const found = shards(arena, 50_000);
      reader.read(pages.slotPath(1), found);
      assert.deepEqual(numbers(found), numbers(written));
      reader.close();
    }
  }),
);

test(
  "SnapshotPages takes over what an earlier process left, and replaces files of another size",
  withPages((folder, arena) => {
    const before = new SnapshotPages(native, folder, plan);
    before.write(0, shards(arena, 1), { meta: meta(8), rank: RANK });
    before.close();
    writeFileSync(path.join(folder, "slot-2"), "cut off");
    const after = new SnapshotPages(native, folder, plan);
    assert.deepEqual(after.states(), [{ generation: "1", step: 8 }, null, null]);
    assert.equal(readFileSync(path.join(folder, "slot-2")).length, plan.bytes);
    after.close();
  }),
);

test(
  "SnapshotPages keeps every file and no mapping when one cannot be mapped now",
  withPages((folder, arena) => {
    const before = new SnapshotPages(native, folder, plan);
    before.write(2, shards(arena, 1), { meta: meta(8), rank: RANK });
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
    assert.deepEqual(after.states(), [null, null, { generation: "1", step: 8 }]);
    after.close();
  }),
);

test(
  "SnapshotPages leaves a slot that is not whole when the copy ends half-way, or it was found damaged",
  withPages((folder, arena) => {
    const pages = new SnapshotPages(native, folder, plan);
    const all = shards(arena, 1);
    pages.write(0, all, { meta: meta(3), rank: RANK });
    all[1]!.ema.free(); // the copy meets a freed tensor half-way
    assert.throws(() => pages.write(0, all, { meta: meta(4), rank: RANK }));
    assert.equal(readSnapshotHeader(pages.slotPath(0)), null);
    pages.write(1, shards(arena, 1), { meta: meta(5), rank: RANK });
    pages.spoil(pages.slotPath(1));
    assert.deepEqual(pages.states(), [null, null, null]);
    pages.close();
  }),
);
