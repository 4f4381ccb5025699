import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { inspectCheckpoint } from "../../checkpoint/inspect.js";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { reshardCheckpoint } from "../../checkpoint/reshard.js";
import {
  AWKWARD,
  layoutOf,
  memoryStorage,
  metaOf,
  modelOf,
  refuses,
  requireState,
  saveAll,
  saveAndCommit,
  scratchFolder,
  state,
  writeValues,
} from "./fixtures.js";

const scratch = scratchFolder();
const name = state(3, 8);

async function saved(text: string, generation = "3") {
  const layout = layoutOf(text);
  const memory = memoryStorage();
  const meta = metaOf(name, layout, { parent: state(2, 6) });
  const slots = path.join(scratch, text);
  await saveAndCommit({ storage: memory.storage, model: AWKWARD, layout, meta, slots, generation });
  return memory;
}

for (const [from, to] of [
  ["1x1x1", "2x2x1"],
  ["2x3x1", "1x1x1"],
  ["1x2x2", "3x1x2"],
  ["1x5x1", "64x4x1"], // more writers than some have elements for
] as const) {
  test(`reshardCheckpoint() from ${from} writes the files that ${to} would have written`, async () => {
    const [source, direct, target] = [await saved(from), await saved(to), memoryStorage()];
    const checkpoint = await openCheckpoint(source.storage);
    const result = await reshardCheckpoint({ checkpoint, layout: layoutOf(to), storage: target.storage });
    assert.deepEqual([result.created, result.bytes], [true, checkpoint.bytes]);
    const data = (disk: typeof direct.disk) =>
      [...disk.files()]
        .filter(([file]) => file.endsWith(".safetensors"))
        .sort(([a], [b]) => (a < b ? -1 : 1));
    assert.deepEqual(data(target.disk), data(direct.disk));
    const opened = await openCheckpoint(target.storage);
    await requireState(opened, AWKWARD, name);
    assert.deepEqual(opened.meta, checkpoint.meta, "what computed the state has not changed");
    const [entry] = await listCheckpoints(target.storage);
    assert.deepEqual([entry!.layout, entry!.current], [layoutOf(to).size, true]);
  });
}

test("reshardCheckpoint() keeps the generation that saved, where that is not the state's own", async () => {
  const checkpoint = await openCheckpoint((await saved("1x2x1", "7")).storage);
  const target = memoryStorage();
  await reshardCheckpoint({ checkpoint, layout: layoutOf("1x1x1"), storage: target.storage });
  const { files } = await inspectCheckpoint(target.storage);
  assert.deepEqual(
    files.map((file) => file.name),
    ["g7-w0.safetensors"],
  );
  await requireState(await openCheckpoint(target.storage), AWKWARD, name);
});

test("reshardCheckpoint() moves tensors larger than its parts, every element once", async () => {
  const model = modelOf({ "patch_embed.weight": [3, 1_000_003] });
  const layout = layoutOf("1x1x1");
  const source = { storage: memoryStorage().storage, model, layout, meta: metaOf(name, layout) };
  const checkpoint = await writeValues(source, (_, i) => i);
  const target = memoryStorage().storage;
  const moved: number[] = [];
  await reshardCheckpoint({
    checkpoint,
    layout: layoutOf("1x2x1"),
    storage: target,
    onProgress: ({ bytesDone, bytesTotal }) => moved.push(bytesDone / bytesTotal),
  });
  assert.equal(moved.at(-1), 1);
  const values = await (await openCheckpoint(target)).readTensor("ema/patch_embed.weight");
  assert.ok(values.every((value, i) => value === i));
});

test("reshardCheckpoint() commits nothing of a source that is damaged", async () => {
  const source = await saved("1x2x1");
  const checkpoint = await openCheckpoint(source.storage);
  source.disk.damage("/run/checkpoint-8/g3-w1.safetensors", (bytes) => bytes.with(bytes.length - 3, 9));
  const target = memoryStorage();
  await assert.rejects(
    reshardCheckpoint({ checkpoint, layout: layoutOf("1x3x1"), storage: target.storage }),
    refuses("CHECKPOINT_CORRUPT", /differs from its digest/),
  );
  assert.deepEqual(await listCheckpoints(target.storage), []);
  // What the attempt left is no obstacle to the next.
  const whole = await openCheckpoint((await saved("1x2x1")).storage);
  await reshardCheckpoint({ checkpoint: whole, layout: layoutOf("1x2x1"), storage: target.storage });
  await requireState(await openCheckpoint(target.storage), AWKWARD, name);
});

test("reshardCheckpoint() refuses a run that holds a checkpoint, whole or damaged, and one that is being written", async () => {
  const checkpoint = await openCheckpoint((await saved("1x1x1")).storage);
  const again = (target: ReturnType<typeof memoryStorage>) =>
    assert.rejects(
      reshardCheckpoint({ checkpoint, layout: layoutOf("1x1x1"), storage: target.storage }),
      refuses("CONFLICT", /holds .*checkpoint-\d+ already, name a folder without any/),
    );
  const full = await saved("1x2x1");
  await again(full);
  full.disk.damage("/run/checkpoint-8/manifest.json", (bytes) => bytes.slice(1));
  await again(full);
  const busy = memoryStorage();
  const meta = metaOf(state(9, 40), layoutOf("1x1x1"));
  const slots = path.join(scratch, "busy");
  await saveAll({ storage: busy.storage, model: AWKWARD, layout: layoutOf("1x1x1"), meta, slots });
  await again(busy);
});
