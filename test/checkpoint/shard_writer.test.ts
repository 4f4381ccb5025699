import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { saveShard } from "../../checkpoint/save.js";
import { ShardWriter } from "../../checkpoint/shard_writer.js";
import { FileStorage } from "../../checkpoint/storage/file.js";
import {
  commitOf,
  layoutOf,
  memoryStorage,
  metaOf,
  modelOf,
  refuses,
  requireState,
  type SaveSetup,
  scratchFolder,
  snapshotPage,
  state,
  writeSlots,
} from "./fixtures.js";
import { LoggedDisk } from "./logged_disk.js";
import { watched } from "./watched_disk.js";

/** Several MiB a rank: intervals of many chunks, of one and a bit, and tiny ones that share a block. */
const LARGE = modelOf({
  "patch_embed.weight": [601, 1021],
  "patch_embed.bias": [3],
  "blocks.0.attn1.q_proj.weight": [263, 1999],
  "blocks.0.norm2.weight": [262_144],
  "blocks.1.mlp.fc1.weight": [17],
});
const layout = layoutOf("1x2x1");
const meta = metaOf(state(3, 40), layout);
const scratch = scratchFolder();
const slots = writeSlots({ ...setupOn(memoryStorage().storage) });

function setupOn(storage: SaveSetup["storage"]): SaveSetup {
  return { storage, model: LARGE, layout, meta, slots: path.join(scratch, "slots") };
}

function shard(uri: SaveSetup["storage"], rank: number, slotPath = slots[rank]!) {
  return saveShard({ uri, slotPath, rank, layout, units: LARGE.units, generation: "3" });
}

const data = (disk: LoggedDisk) => [...disk.files()].filter(([name]) => name.includes(".safetensors"));

test("ranks of many MiB saved at once are read back bit for bit, each MiB against its digest", async () => {
  const { storage, disk } = memoryStorage();
  await Promise.all([shard(storage, 0), shard(storage, 1)]);
  await commitOf(setupOn(storage));
  await requireState(await openCheckpoint(storage), LARGE, state(3, 40));
  const writes = disk.log.filter((each) => each.op === "write").map(({ bytes }) => bytes.byteLength);
  assert.ok(writes.length > 20 && Math.max(...writes) <= 1 << 20, `${writes}`);
});

test("a disk that fails at any write of many: the save fails once nothing is under way, and leaves nothing", async () => {
  for (let at = 0; at < 12; at++) {
    const disk = new LoggedDisk();
    let [writes, busy] = [0, 0];
    const slow = watched(disk, async (operation) => {
      busy++;
      await new Promise(setImmediate);
      busy--;
      if (operation === "write" && writes++ === at)
        throw Object.assign(new Error("injected"), { code: "EIO" });
    });
    await assert.rejects(
      shard(new FileStorage("/run", "file:///run", slow), 0),
      refuses("STORAGE_FAILED", /EIO/),
    );
    assert.equal(busy, 0);
    assert.deepEqual([...disk.files()], [], `write ${at}`);
  }
});

test("a flipped byte deep in a snapshot: nothing of its MiB is handed to storage", async () => {
  const page = snapshotPage(LARGE, layout, 0, meta);
  const flipped = page.byteLength - 3_000_000;
  page[flipped]! ^= 4;
  const slot = path.join(scratch, "flipped");
  writeFileSync(slot, page);
  const { storage, disk } = memoryStorage();
  await assert.rejects(shard(storage, 0, slot), refuses("CHECKPOINT_CORRUPT", /differ from their checksum/));
  assert.deepEqual(data(disk), []);
  const around = Buffer.from(page.subarray(flipped - 32, flipped + 32));
  for (const each of disk.log) if (each.op === "write") assert.ok(!Buffer.from(each.bytes).includes(around));
});

test("a source that gives too much or too little of a tensor is refused, and leaves nothing", async () => {
  for (const [given, what] of [
    [4, /read more than/],
    [-4, /wrote \d+ bytes, planned/],
  ] as const) {
    const { storage, disk } = memoryStorage();
    const source = {
      meta,
      async *read({ length }: { length: number }) {
        yield new Uint8Array(4 * length + given);
      },
      requireUnchanged: () => {},
    };
    const options = { rank: 0, layout, units: LARGE.units, generation: "3" };
    await assert.rejects(new ShardWriter(storage, source, options).write(), refuses("INTERNAL", what));
    assert.deepEqual(data(disk), []);
  }
});
