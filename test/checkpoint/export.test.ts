import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { type ExportOptions, exportCheckpoint } from "../../checkpoint/export.js";
import { openCheckpoint } from "../../checkpoint/load.js";
import { openWeights } from "../../checkpoint/open_weights.js";
import { roundToBf16 } from "../../checkpoint/round_to_bf16.js";
import { readSafetensors } from "../../checkpoint/safetensors.js";
import { widenFloats } from "../../checkpoint/widen_floats.js";
import { modelConfig } from "../../job/job.js";
import {
  layoutOf,
  memoryStorage,
  metaOf,
  refuses,
  saveAndCommit,
  scratchFolder,
  state,
  tinyJob,
} from "./fixtures.js";

const scratch = scratchFolder();
const { job, model } = tinyJob(scratch, ["flow.shift=2"]);
const CODEC = { kind: "haar", channels: 48, first: { mean: [0.5], deviation: [2] } };

async function saved() {
  const layout = layoutOf("1x3x1");
  const memory = memoryStorage();
  const meta = metaOf(state(1, 2), layout, { job, codec: CODEC });
  const slots = path.join(scratch, "slots");
  await saveAndCommit({ storage: memory.storage, model, layout, meta, slots });
  return { ...memory, checkpoint: await openCheckpoint(memory.storage) };
}

const read = (...parts: string[]) => JSON.parse(readFileSync(path.join(...parts), "utf8"));
const exporting = (options: Pick<ExportOptions, "checkpoint" | "folder"> & Partial<ExportOptions>) =>
  exportCheckpoint({ weights: "ema", dtype: "f32", shardBytesMax: 5e9, ...options });

test("exportCheckpoint() writes every tensor bit for bit, in one file where one is enough", async () => {
  const { checkpoint } = await saved();
  const folder = path.join(scratch, "whole");
  const moved: number[] = [];
  const result = await exporting({
    checkpoint,
    folder,
    onProgress: ({ bytesDone, bytesTotal }) => moved.push(bytesDone / bytesTotal),
  });
  assert.equal(moved.at(-1), 1);
  assert.deepEqual(result.files, [
    "transformer/diffusion_pytorch_model.safetensors",
    "model_index.json",
    "transformer/config.json",
    "scheduler/scheduler_config.json",
    "vae/config.json",
  ]);
  const { tensors, metadata } = await readSafetensors(path.join(folder, result.files[0]!));
  assert.deepEqual(
    [...tensors.keys()],
    checkpoint.specs.map(({ name }) => name),
    "in the order of the model",
  );
  for (const { name, shape } of model.specs) {
    const found = tensors.get(name)!;
    assert.deepEqual(found.shape, shape);
    const want = await checkpoint.readTensor(`ema/${name}`);
    assert.deepEqual(Buffer.from(found.data), Buffer.from(want.buffer), name);
  }
  assert.deepEqual(Object.fromEntries(metadata), { format: "pt", state: "1-2", weights: "ema" });
  assert.equal(result.bytes, 4 * model.specs.reduce((sum, { count }) => sum + count, 0));
});

test("exportCheckpoint() says what the weights are: model, flow and latent statistics, all resolved", async () => {
  const { checkpoint } = await saved();
  const folder = path.join(scratch, "said");
  await exporting({ checkpoint, folder });
  const { _class_name, _goku_version, ...config } = read(folder, "transformer/config.json");
  assert.deepEqual([_class_name, _goku_version], ["GokuTransformer3DModel", "0.1.0"]);
  assert.deepEqual(config, modelConfig(job));
  const scheduler = read(folder, "scheduler/scheduler_config.json");
  assert.deepEqual([scheduler.shift, scheduler.time, scheduler.sample.steps], [2, "logit_normal", 24]);
  const codec = read(folder, "vae/config.json");
  assert.deepEqual({ kind: codec.kind, channels: codec.channels, first: codec.first }, CODEC);
  const index = read(folder, "model_index.json");
  for (const part of ["transformer", "scheduler", "vae"]) {
    const file = readdirSync(path.join(folder, part)).find((name) => name.endsWith("config.json"))!;
    assert.equal(index[part][1], read(folder, part, file)._class_name);
  }
});

test("exportCheckpoint() splits into files of at most so many bytes, with an index of them, in bf16", async () => {
  const { checkpoint } = await saved();
  const folder = path.join(scratch, "split");
  const shardBytesMax = 20_000;
  const result = await exporting({ checkpoint, folder, weights: "model", dtype: "bf16", shardBytesMax });
  const { metadata, weight_map: map } = read(
    folder,
    "transformer/diffusion_pytorch_model.safetensors.index.json",
  );
  assert.equal(metadata.total_size, result.bytes);
  const files = [...new Set(Object.values(map) as string[])];
  assert.ok(files.length > 2);
  assert.match(files[0]!, /^diffusion_pytorch_model-00001-of-000\d\d\.safetensors$/);
  let bytes = 0;
  for (const file of files) {
    const { tensors } = await readSafetensors(path.join(folder, "transformer", file));
    const size = [...tensors.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
    assert.ok(size <= shardBytesMax || tensors.size === 1, `${file} has ${size} bytes`);
    for (const tensor of tensors.values()) assert.deepEqual([tensor.dtype, map[tensor.name]], ["BF16", file]);
    bytes += size;
  }
  assert.equal(bytes, result.bytes);
  const weights = await openWeights([folder]);
  for (const { name, count } of model.specs) {
    const rounded = widenFloats(roundToBf16(await checkpoint.readTensor(`model/${name}`)), "BF16");
    assert.deepEqual(await weights.read(name, { start: 0, length: count }), rounded, name);
  }
  await weights.close();
});

test("exportCheckpoint() leaves nothing behind of a checkpoint that is damaged", async () => {
  const { checkpoint, disk } = await saved();
  disk.damage("/run/checkpoint-2/g1-w1.safetensors", (bytes) => bytes.with(bytes.length >> 1, 1));
  const parent = path.join(scratch, "parent");
  mkdirSync(parent);
  const run = async () => {
    for (const weights of ["ema", "model"] as const)
      await exporting({ checkpoint, folder: path.join(parent, weights), weights });
  };
  await assert.rejects(run(), refuses("CHECKPOINT_CORRUPT", /differs from its digest/));
  assert.ok(
    readdirSync(parent).every((name) => name === "ema"),
    readdirSync(parent).join(),
  );
});

test("exportCheckpoint() takes an empty folder, also behind a link, and refuses one that holds anything", async () => {
  const { checkpoint } = await saved();
  const [real, link] = [path.join(scratch, "real"), path.join(scratch, "link")];
  mkdirSync(real);
  symlinkSync(real, link);
  await exporting({ checkpoint, folder: link });
  assert.ok(readdirSync(real).includes("model_index.json"));
  await assert.rejects(
    exporting({ checkpoint, folder: real }),
    refuses("CONFLICT", /name a folder that is not there/),
  );
  const file = path.join(scratch, "file");
  writeFileSync(file, "mine");
  for (const folder of [file, path.join(file, "inner")])
    await assert.rejects(exporting({ checkpoint, folder }), refuses("CONFLICT", /is a file/));
  assert.equal(readFileSync(file, "utf8"), "mine");
});

test("exportCheckpoint() refuses a checkpoint whose job does not say its model", async () => {
  const layout = layoutOf("1x1x1");
  const { storage } = memoryStorage();
  const slots = path.join(scratch, "other");
  const wide = tinyJob(scratch, ["model.width=64"]).job;
  await saveAndCommit({ storage, model, layout, meta: metaOf(state(1, 2), layout, { job: wide }), slots });
  const checkpoint = await openCheckpoint(storage);
  const folder = path.join(scratch, "never");
  await assert.rejects(exporting({ checkpoint, folder }), refuses("CHECKPOINT_MISMATCH", /of another shape/));
  const odd = memoryStorage().storage;
  await saveAndCommit({ storage: odd, model, layout, meta: metaOf(state(1, 2), layout), slots });
  await assert.rejects(
    exporting({ checkpoint: await openCheckpoint(odd), folder }),
    refuses("JOB_INVALID", /Cannot use the job in/),
  );
});
