import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { saveShard } from "../../checkpoint/save.js";
import { beginSnapshot, sealSnapshot } from "../../checkpoint/snapshot.js";
import { FileStorage } from "../../checkpoint/storage/file.js";
import type { Storage } from "../../checkpoint/storage/storage.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import { GokuError } from "../../job/errors.js";
import {
  commitOf,
  elementBits,
  layoutOf,
  memoryStorage,
  metaOf,
  requireState,
  SMALL,
  saveAndCommit,
  scratchFolder,
  sealOf,
  snapshotPage,
  state,
} from "./fixtures.js";
import { LoggedDisk } from "./logged_disk.js";
import { SlowView } from "./watched_disk.js";

const scratch = scratchFolder();
const layout = layoutOf("1x2x1");
const TENSOR = "patch_embed.weight";

/**
 * Saves and commits state 1-20 of one of two jobs that two controllers run: its name is that of the other's, its elements
 * are those that the double of a state has at step `content`.
 */
async function saveJob(storage: Storage, content: number): Promise<void> {
  const meta = metaOf(state(1, 20), layout, { job: { name: "test", seed: content } });
  const slots = path.join(scratch, `${content}`);
  mkdirSync(slots, { recursive: true });
  for (const rank of [0, 1]) {
    const page = snapshotPage(SMALL, layout, rank, metaOf(state(1, content), layout));
    beginSnapshot(page);
    sealSnapshot(page, sealOf(page, SMALL, layout, rank, meta));
    const slotPath = path.join(slots, `${rank}`);
    writeFileSync(slotPath, page);
    await saveShard({ uri: storage, slotPath, rank, layout, units: SMALL.units, generation: "1" });
  }
  await commitOf({ storage, model: SMALL, layout, meta, slots });
}

async function endOf(saving: Promise<void>): Promise<string> {
  return saving.then(
    () => "success",
    (error: unknown) => (error instanceof GokuError ? error.code : String(error)),
  );
}

/** The first job begins, stands still, and goes on when the second is done. */
async function race(view: SlowView, wait: boolean): Promise<{ disk: LoggedDisk; ends: string[] }> {
  const disk = new LoggedDisk();
  const { storage } = memoryStorage(disk);
  const older = { model: SMALL, layout, meta: metaOf(state(1, 10), layout) };
  await saveAndCommit({ ...older, storage, slots: path.join(scratch, "older") });
  const first = endOf(saveJob(new FileStorage("/run", "file:///run", view.of(disk)), 1));
  const ends: string[] = [];
  if (wait) {
    await view.stands;
    ends.push(await endOf(saveJob(storage, 2)));
    view.open();
  }
  return { disk, ends: [...ends, await first] };
}

test("two jobs in one directory, one standing still at any operation: one is told, what loads is of one job, the older stays", async () => {
  const counted = new SlowView(null);
  await race(counted, false);
  const loaded = new Map<number, number>();
  for (let at = 0; at < counted.count; at++) {
    const { disk, ends } = await race(new SlowView(at), true);
    const where = `before operation ${at} of ${counted.count}, they ended with ${ends.join(" and ")}`;
    const refused = ends.filter((end) => end !== "success");
    assert.ok(refused.length >= 1, where);
    for (const end of refused)
      assert.ok(["CONFLICT", "CHECKPOINT_CORRUPT", "STORAGE_FAILED", "NOT_FOUND"].includes(end), where);
    const { storage } = memoryStorage(disk);
    await requireState(await openCheckpoint(storage, state(1, 10)), SMALL, state(1, 10));
    if ((await storage.stat("checkpoint-20/manifest.json")) === null) continue;
    // The job that stood still may have put its files under the names of the other's, which the digests tell.
    if ((await verifyCheckpoint(storage)).bad.length > 0) continue;
    const checkpoint = await openCheckpoint(storage);
    const [first] = new Uint32Array((await checkpoint.readTensor(`model/${TENSOR}`)).buffer);
    const content = [1, 2].find((step) => elementBits(state(1, step), `model/${TENSOR}`, 0) === first)!;
    assert.deepEqual(checkpoint.meta.job, { name: "test", seed: content }, where);
    const rest = await checkpoint.readTensor("adam_v/blocks.0.norm2.weight");
    for (const [i, bits] of new Uint32Array(rest.buffer).entries())
      assert.equal(bits, elementBits(state(1, content), "adam_v/blocks.0.norm2.weight", i), where);
    loaded.set(content, (loaded.get(content) ?? 0) + 1);
  }
  assert.ok((loaded.get(1) ?? 0) > 0 && (loaded.get(2) ?? 0) > 5, JSON.stringify([...loaded]));
});
