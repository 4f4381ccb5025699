import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import type { SaveHook } from "../../checkpoint/hooks.js";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { saveShard } from "../../checkpoint/save.js";
import { stateKey } from "../../checkpoint/state.js";
import { Layout } from "../../job/layout.js";
import {
  AWKWARD,
  commitOf,
  layoutOf,
  memoryStorage,
  metaOf,
  refuses,
  requireState,
  type SaveSetup,
  saveAll,
  saveAndCommit,
  scratchFolder,
  snapshotPage,
  state,
  writeSlots,
} from "./fixtures.js";

const scratch = scratchFolder();
let folders = 0;

function setup(more: Partial<SaveSetup> = {}): SaveSetup {
  const layout = more.layout ?? layoutOf("1x2x1");
  const meta = more.meta ?? metaOf(state(3, 40), layout);
  return {
    storage: memoryStorage().storage,
    model: AWKWARD,
    layout,
    meta,
    slots: path.join(scratch, `${folders++}`),
    ...more,
  };
}

function shard(save: SaveSetup, rank: number, hook: SaveHook | null = null) {
  const slotPath = writeSlots(save)[rank]!;
  const { storage: uri, layout, model } = save;
  return saveShard({
    uri,
    slotPath,
    rank,
    layout,
    units: model.units,
    generation: save.generation ?? save.meta.state.generation,
    hook,
  });
}

test("saveShard() and commitCheckpoint() repeated are harmless and say so", async () => {
  const { storage, disk } = memoryStorage();
  const save = setup({ storage });
  assert.equal((await shard(save, 0)).reused, false);
  assert.equal((await shard(save, 0)).reused, true);
  await saveAll(save);
  const first = await commitOf(save);
  const files = new Map(disk.files());
  assert.deepEqual(
    { ...first, bytes: 0 },
    { state: state(3, 40), uri: "file:///run/checkpoint-40", bytes: 0, created: true },
  );
  await saveAll(save);
  assert.deepEqual(await commitOf(save), { ...first, created: false });
  assert.deepEqual(disk.files(), files);
});

test("saveShard() writes anew what an earlier attempt left without its manifest, or cut short", async () => {
  const { storage, disk } = memoryStorage();
  const save = setup({ storage });
  await saveAll(save);
  disk.apply({ op: "unlink", path: "/run/checkpoint-40/g3-w0.json" });
  disk.damage("/run/checkpoint-40/g3-w0.safetensors", () => Buffer.from("half"));
  disk.damage("/run/checkpoint-40/g3-w1.safetensors", (bytes) => bytes.slice(0, 100));
  assert.equal((await shard(save, 0)).reused, false);
  assert.equal((await shard(save, 1)).reused, false);
  await commitOf(save);
  await requireState(await openCheckpoint(storage), AWKWARD, state(3, 40));
});

test("commitCheckpoint() names the writers that have not finished, and leaves nothing visible", async () => {
  const save = setup({ layout: layoutOf("2x2x1") });
  await saveAll(save, [0, 2]);
  await assert.rejects(
    commitOf(save),
    refuses(
      "STORAGE_FAILED",
      /writers 1, 3 \(2 of 4\) have not finished after 0 ms, .* not one folder shared by all nodes/,
    ),
  );
  assert.deepEqual(await listCheckpoints(save.storage), []);
  await assert.rejects(
    commitOf(save, { waitMs: 60_000, signal: AbortSignal.abort() }),
    refuses("COMM_ABORTED", /writers 1, 3/),
  );
});

test("commitCheckpoint() reads the manifests side by side and looks for no data file alone: latency is not paid per writer", async () => {
  const { storage } = memoryStorage();
  const save = setup({ storage, layout: layoutOf("1x12x1") });
  await saveAll(save);
  const seen = { reading: 0, readingMost: 0, stats: 0 };
  const late = new Proxy(storage, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      if (key === "stat") seen.stats++;
      if (key !== "readFile") return typeof value === "function" ? value.bind(target) : value;
      return async (name: string, bytesMax: number) => {
        seen.readingMost = Math.max(seen.readingMost, ++seen.reading);
        await new Promise((resolve) => setImmediate(resolve));
        return target.readFile(name, bytesMax).finally(() => seen.reading--);
      };
    },
  });
  assert.equal((await commitOf({ ...save, storage: late })).created, true);
  assert.equal(seen.readingMost, 12);
  assert.ok(seen.stats < 4, `${seen.stats} keys were looked up one by one`);
});

test("commitCheckpoint() waits for a writer that is late", async () => {
  const save = setup();
  await saveAll(save, [0]);
  const committing = commitOf(save, { waitMs: 60_000 });
  await saveAll(save, [1]);
  assert.equal((await committing).created, true);
});

test("a state restored in a later generation and another layout is saved under its old name", async () => {
  const { storage } = memoryStorage();
  const layout = layoutOf("1x3x1");
  await saveAndCommit(setup({ storage, layout, meta: metaOf(state(3, 40), layout), generation: "4" }));
  const checkpoint = await openCheckpoint(storage);
  await requireState(checkpoint, AWKWARD, state(3, 40));
});

test("a committed state restored into another layout and saved again is the same checkpoint", async () => {
  const { storage, disk } = memoryStorage();
  await saveAndCommit(setup({ storage }));
  const files = new Map(disk.files());
  const layout = layoutOf("1x3x1");
  const again = setup({ storage, layout, meta: metaOf(state(3, 40), layout), generation: "4" });
  assert.equal((await shard(again, 2)).reused, true);
  assert.equal((await commitOf(again)).created, false);
  assert.deepEqual(disk.files(), files);
});

test("a save that crashed in an older generation is superseded, whatever it left", async () => {
  const { storage, disk } = memoryStorage();
  await saveAll(setup({ storage }), [1]);
  disk.damage("/run/checkpoint-40/g3-w1.json", () => Buffer.from("{"));
  const layout = layoutOf("1x3x1");
  await saveAndCommit(setup({ storage, layout, meta: metaOf(state(3, 40), layout), generation: "4" }));
  await requireState(await openCheckpoint(storage), AWKWARD, state(3, 40));
});

test("a step committed again by a higher generation belongs to it; the other stays readable by name", async () => {
  const { storage } = memoryStorage();
  const layout = layoutOf("2x1x1");
  await saveAndCommit(setup({ storage }));
  const later = setup({ storage, layout, meta: metaOf(state(5, 40), layout, { parent: state(3, 38) }) });
  assert.equal((await saveAndCommit(later)).created, true);
  assert.equal((await saveAndCommit(later)).created, false);
  await requireState(await openCheckpoint(storage), AWKWARD, state(5, 40));
  await requireState(await openCheckpoint(storage, state(3, 40)), AWKWARD, state(3, 40));
  const listed = (await listCheckpoints(storage)).map((entry) => [stateKey(entry.state), entry.current]);
  assert.deepEqual(listed, [
    ["5-40", true],
    ["3-40", false],
  ]);
});

test("a step committed by a higher generation refuses a lower one, before and during its commit", async () => {
  const { storage } = memoryStorage();
  const stale = setup({ storage });
  await saveAll(stale);
  const meta = metaOf(state(5, 40), stale.layout);
  const overtake: SaveHook = async (point) => {
    if (point === "save.commit") await saveAndCommit(setup({ storage, meta }));
  };
  await assert.rejects(
    commitOf(stale, { hook: overtake }),
    refuses("GENERATION_STALE", /generation 5 has committed that step/),
  );
  await assert.rejects(commitOf(stale), refuses("GENERATION_STALE", /generation 5/));
  await requireState(await openCheckpoint(storage), AWKWARD, state(5, 40));
});

test("commitCheckpoint() refuses a folder where the name of its record is taken by what is no file, and says so", async () => {
  const { storage, disk } = memoryStorage();
  const save = setup({ storage });
  await saveAll(save);
  disk.apply({ op: "makeFolder", path: "/run/checkpoint-40/manifest.json" });
  await assert.rejects(
    commitOf(save),
    refuses(
      "STORAGE_FAILED",
      /manifest\.json of checkpoint-40 .*: the name is taken and no file has it, remove what has it/,
    ),
  );
  assert.deepEqual(await listCheckpoints(storage), []);
  disk.apply({ op: "removeFolder", path: "/run/checkpoint-40/manifest.json" });
  await commitOf(save);
  await requireState(await openCheckpoint(storage), AWKWARD, state(3, 40));
});

test("two committers of one state: one creates the record, both succeed", async () => {
  const save = setup();
  await saveAll(save);
  let rival: boolean | null = null;
  const hook: SaveHook = async (point) => {
    if (point === "save.commit") rival = (await commitOf(save)).created;
  };
  assert.equal((await commitOf(save, { hook })).created, false);
  assert.equal(rival, true);
});

test("another run whose state has the same name is told apart, and its files stay", async () => {
  const { storage, disk } = memoryStorage();
  await saveAndCommit(setup({ storage }));
  const files = new Map(disk.files());
  const layout = layoutOf("1x2x1");
  for (const meta of [metaOf(state(3, 40), layout, { job: { seed: 2 } }), metaOf(state(2, 40), layout)]) {
    const other = setup({ storage, meta, generation: "3" });
    await assert.rejects(saveAll(other), refuses("CONFLICT", /give this job its own checkpoint.uri/));
  }
  await assert.rejects(
    commitOf(setup({ storage, meta: metaOf(state(3, 40), layout, { job: { seed: 2 } }) })),
    refuses("CONFLICT", /another run/),
  );
  assert.deepEqual(disk.files(), files);
});

test("uncommitted files of another run under the same names are replaced, and never committed for it", async () => {
  const { storage } = memoryStorage();
  const layout = layoutOf("1x2x1");
  await saveAll(setup({ storage, meta: metaOf(state(3, 40), layout, { job: { seed: 2 } }) }));
  const save = setup({ storage });
  await saveAll(save, [0]);
  await assert.rejects(commitOf(save), refuses("STORAGE_FAILED", /writers 1 /));
  assert.equal((await saveAndCommit(save)).created, true);
});

test("writers that followed different plans are never committed together", async () => {
  const save = setup();
  await saveAll(save);
  const layout = layoutOf("1x1x2"); // as many ranks, the same shards, another plan
  await assert.rejects(commitOf({ ...save, layout }), refuses("CHECKPOINT_MISMATCH", /followed plan/));
});

test("a full disk at any byte: STORAGE_FULL, nothing visible, space given back, and the next save succeeds", async () => {
  const { storage, disk } = memoryStorage();
  await saveAndCommit(setup({ storage, meta: metaOf(state(3, 20), layoutOf("1x2x1")) }));
  const used = [...disk.files().values()].reduce((sum, bytes) => sum + bytes.byteLength, 0);
  const save = setup({ storage });
  let full = 0;
  for (const room of [0, 100, 3000, 9000, 14_000, 18_000, 22_000]) {
    disk.capacityBytes = used + room;
    await assert.rejects(
      saveAndCommit(save),
      refuses("STORAGE_FULL", /no space left \(ENOSPC\), free some there or lower checkpoint.keep_last/),
    );
    full++;
    assert.deepEqual(
      (await listCheckpoints(storage)).map((entry) => entry.step),
      [20],
    );
    await requireState(await openCheckpoint(storage), AWKWARD, state(3, 20));
  }
  assert.equal(full, 7);
  const unfinished = [...disk.files().keys()].filter((file) => file.endsWith(".tmp"));
  assert.deepEqual(unfinished, []);
  disk.capacityBytes = Number.POSITIVE_INFINITY;
  await saveAndCommit(save);
  await requireState(await openCheckpoint(storage), AWKWARD, state(3, 40));
});

test("hooks fire at every named point, and what they throw counts as storage's own error", async () => {
  const { storage } = memoryStorage();
  const save = setup({ storage });
  const points: string[] = [];
  const full = Object.assign(new Error("injected"), { code: "ENOSPC" });
  await assert.rejects(
    shard(save, 0, () => Promise.reject(full)),
    refuses("STORAGE_FULL", /g3-w0.safetensors/),
  );
  await shard(save, 0, (point, detail) => void points.push(`${point} ${detail.writer} ${detail.step}`));
  await shard(save, 1);
  const failing: SaveHook = (point) => (point === "save.commit" ? Promise.reject(full) : undefined);
  await assert.rejects(commitOf(save, { hook: failing }), refuses("STORAGE_FULL", /injected/));
  assert.deepEqual(await listCheckpoints(storage), []);
  await commitOf(save, { hook: (point) => void points.push(point) });
  assert.deepEqual(points, ["save.write 0 40", "save.commit", "save.committed"]);
});

test("saveShard() refuses a slot that is missing, not whole, of another rank or layout, or overwritten meanwhile", async () => {
  const { storage } = memoryStorage();
  const save = setup({ storage });
  const slots = writeSlots(save);
  const base = { uri: storage, layout: save.layout, units: AWKWARD.units, generation: "3" };
  const missing = saveShard({ ...base, slotPath: path.join(scratch, "none"), rank: 0 });
  await assert.rejects(missing, refuses("SNAPSHOT_MISSING", /missing or not whole/));
  await assert.rejects(
    saveShard({ ...base, slotPath: slots[1]!, rank: 0 }),
    refuses("SNAPSHOT_MISSING", /holds rank 1 of 1x2x1/),
  );
  await assert.rejects(
    saveShard({ ...base, layout: layoutOf("1x1x2"), slotPath: slots[0]!, rank: 0 }),
    refuses("SNAPSHOT_MISSING", /want rank 0 of 1x1x2/),
  );
  const overwrite: SaveHook = () =>
    writeFileSync(
      slots[0]!,
      snapshotPage(AWKWARD, save.layout, 0, metaOf(state(3, 41), save.layout)).fill(0, 12, 16),
    );
  await assert.rejects(
    saveShard({ ...base, slotPath: slots[0]!, rank: 0, hook: overwrite }),
    refuses("SNAPSHOT_MISSING", /overwritten meanwhile/),
  );
  assert.deepEqual(await storage.list(""), []);
});

test("saveShard() refuses a snapshot with a flipped byte", async () => {
  const save = setup();
  const slotPath = writeSlots(save)[0]!;
  const page = snapshotPage(AWKWARD, save.layout, 0, save.meta);
  page[page.byteLength - 70]! ^= 4;
  writeFileSync(slotPath, page);
  const { storage: uri, layout } = save;
  const saving = saveShard({ uri, slotPath, rank: 0, layout, units: AWKWARD.units, generation: "3" });
  await assert.rejects(
    saving,
    refuses("CHECKPOINT_CORRUPT", /256 bytes at 1051136 differ from their checksum/),
  );
});

test("ranks that hold nothing write a manifest alone", async () => {
  const { storage, disk } = memoryStorage();
  const layout = new Layout({ dp_replicate: 1, dp_shard: 40, sp: 1 });
  await saveAndCommit(setup({ storage, layout, meta: metaOf(state(3, 40), layout) }));
  const names = [...disk.files().keys()];
  assert.equal(names.filter((name) => name.endsWith(".json")).length, 41);
  assert.ok(names.filter((name) => name.endsWith(".safetensors")).length < 40);
  await requireState(await openCheckpoint(storage), AWKWARD, state(3, 40));
});
