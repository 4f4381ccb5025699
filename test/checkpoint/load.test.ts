import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { inspectCheckpoint } from "../../checkpoint/inspect.js";
import { currentLine, type LineageRecord } from "../../checkpoint/lineage.js";
import { listCheckpoints, openCheckpoint, splitCheckpointUri } from "../../checkpoint/load.js";
import { STATE_KINDS, type StateName, stateKey } from "../../checkpoint/state.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import {
  AWKWARD,
  layoutOf,
  memoryStorage,
  metaOf,
  modelOf,
  readShard,
  refuses,
  requireState,
  type SaveSetup,
  saveAll,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";

const scratch = scratchFolder();
const layout = layoutOf("1x2x1");
let folders = 0;

function setup(storage: SaveSetup["storage"], name: StateName, parent: StateName | null = null): SaveSetup {
  return {
    storage,
    model: AWKWARD,
    layout,
    meta: metaOf(name, layout, { parent }),
    slots: path.join(scratch, `${folders++}`),
  };
}

/** Records from "generation-step" or "generation-step<parent". */
function lineOf(...texts: string[]): string[] {
  const name = (text: string) => state(Number(text.split("-")[0]), Number(text.split("-")[1]));
  const records: LineageRecord[] = texts.map((text) => {
    const [own, parent] = text.split("<");
    return { state: name(own!), parent: parent === undefined ? null : name(parent) };
  });
  return currentLine(records).map((record) => stateKey(record.state));
}

test("currentLine() follows the highest generation down to what it was restored from", () => {
  assert.deepEqual(lineOf(), []);
  assert.deepEqual(lineOf("1-10", "1-30", "1-20"), ["1-30", "1-20", "1-10"]);
  assert.deepEqual(
    lineOf("1-10", "1-20", "1-30", "2-25<1-20"),
    ["2-25", "1-20", "1-10"],
    "1-30 was given up",
  );
  assert.deepEqual(
    lineOf("1-10", "2-30<1-25"),
    ["2-30", "1-10"],
    "restored from a snapshot that never became durable",
  );
  assert.deepEqual(
    lineOf("1-10", "1-20", "4-40<3-33"),
    ["4-40", "1-20", "1-10"],
    "generations 2 and 3 have no record",
  );
  assert.deepEqual(
    lineOf("1-10", "2-40<1-10", "3-20<1-10"),
    ["3-20", "1-10"],
    "a lower step of a higher generation is newer",
  );
  assert.deepEqual(lineOf("1-10", "2-20"), ["2-20"], "started from initial values");
  assert.deepEqual(lineOf("9-10", "10-20<9-10"), ["10-20", "9-10"], "generations are numbers");
  assert.deepEqual(lineOf("1-10", "5-20<5-30"), ["5-20"], "a parent of its own generation is none");
});

test("openCheckpoint() takes the newest of the current line, a step of it, or the state named", async () => {
  const { storage } = memoryStorage();
  for (const step of [10, 20, 30]) await saveAndCommit(setup(storage, state(1, step)));
  await saveAndCommit(setup(storage, state(2, 25), state(1, 20)));
  await requireState(await openCheckpoint(storage), AWKWARD, state(2, 25));
  await requireState(await openCheckpoint(storage, 20), AWKWARD, state(1, 20));
  await requireState(await openCheckpoint(storage, state(1, 30)), AWKWARD, state(1, 30));
  await assert.rejects(
    openCheckpoint(storage, 30),
    refuses("NOT_FOUND", /step 25 in generation 2 does not descend from it, name the folder checkpoint-30/),
  );
  await assert.rejects(
    openCheckpoint(storage, state(7, 30)),
    refuses("NOT_FOUND", /of generation 7 .* found generation 1$/),
  );
  const listed = (await listCheckpoints(storage)).map((entry) => `${stateKey(entry.state)} ${entry.current}`);
  assert.deepEqual(listed, ["2-25 true", "1-20 true", "1-10 true", "1-30 false"]);
});

test("openCheckpoint() takes the folder of one checkpoint, also of a line that was given up", async () => {
  const uri = `file://${path.join(scratch, "run")}`;
  await saveAndCommit(setup(uri, state(1, 10)));
  await saveAndCommit(setup(uri, state(2, 5)));
  for (const text of [
    `${uri}/checkpoint-10`,
    `${uri}/checkpoint-10/`,
    path.join(scratch, "run/checkpoint-10"),
  ]) {
    await requireState(await openCheckpoint(text), AWKWARD, state(1, 10));
  }
  await requireState(await openCheckpoint(`${uri}/`), AWKWARD, state(2, 5));
  assert.deepEqual(splitCheckpointUri("checkpoint-3"), { root: ".", step: 3 });
  assert.deepEqual(splitCheckpointUri("/checkpoint-3"), { root: "/", step: 3 });
  assert.deepEqual(splitCheckpointUri("file://checkpoint-3"), { root: "file://.", step: 3 });
  assert.deepEqual(splitCheckpointUri("s3://runs/checkpoint-3/"), { root: "s3://runs", step: 3 });
  assert.deepEqual(splitCheckpointUri("s3://checkpoint-3"), { root: "s3://checkpoint-3", step: null });
  assert.deepEqual(splitCheckpointUri("file://./a/checkpoint-3x"), {
    root: "file://./a/checkpoint-3x",
    step: null,
  });
});

test("what is not there, or was never committed, is told apart in one line", async () => {
  const { storage } = memoryStorage();
  await assert.rejects(
    openCheckpoint(storage),
    refuses("NOT_FOUND", /newest checkpoint under file:\/\/\/run: there is no checkpoint, check the path/),
  );
  await saveAll(setup(storage, state(1, 20)));
  await assert.rejects(openCheckpoint(storage), refuses("NOT_FOUND", /none of checkpoint-20 was committed/));
  await saveAndCommit(setup(storage, state(1, 10)));
  await assert.rejects(
    openCheckpoint(storage, 20),
    refuses("NOT_FOUND", /checkpoint-20: it was never committed/),
  );
  await assert.rejects(
    openCheckpoint(storage, 7),
    refuses("NOT_FOUND", /checkpoint-7: there is no such checkpoint, found checkpoint-10, checkpoint-20/),
  );
  await assert.rejects(
    openCheckpoint(path.join(scratch, "nowhere/checkpoint-1")),
    refuses("NOT_FOUND", /no such checkpoint/),
  );
  await assert.rejects(
    verifyCheckpoint(storage.uri.replace("/run", path.join(scratch, "nowhere"))),
    refuses("NOT_FOUND", /no checkpoint/),
  );
  await assert.rejects(
    openCheckpoint("gs://bucket/run"),
    refuses("ARGUMENT_INVALID", /found gs:\/\/, want file:\/\/PATH or s3:\/\/BUCKET\/PREFIX/),
  );
  await requireState(await openCheckpoint(storage), AWKWARD, state(1, 10));
});

test("a newest commit record that is damaged is an error that names the one to go back to; an older one is passed over", async () => {
  const { storage, disk } = memoryStorage();
  for (const step of [10, 20, 30]) await saveAndCommit(setup(storage, state(1, step)));
  disk.damage("/run/checkpoint-10/manifest.json", (bytes) => bytes.with(50, 0));
  await requireState(await openCheckpoint(storage), AWKWARD, state(1, 30));
  disk.damage("/run/checkpoint-30/manifest.json", (bytes) => bytes.with(50, 0));
  const pattern = /checkpoint-30\/manifest.json.*name file:\/\/\/run\/checkpoint-20 to go back to step 20/;
  await assert.rejects(openCheckpoint(storage), refuses("CHECKPOINT_CORRUPT", pattern));
  await requireState(await openCheckpoint(storage, 20), AWKWARD, state(1, 20));
  const unreadable: number[] = [];
  assert.deepEqual(
    (await listCheckpoints(storage, ({ step }) => unreadable.push(step))).map((entry) => entry.step),
    [20],
  );
  assert.deepEqual(unreadable.sort(), [10, 30]);
  const report = await verifyCheckpoint(storage);
  assert.deepEqual(
    [report.uri, report.state, report.bad[0]?.file],
    ["file:///run/checkpoint-30", null, "manifest.json"],
  );
});

test("a checkpoint of another model names the first tensors that differ", async () => {
  const { storage } = memoryStorage();
  await saveAndCommit(setup(storage, state(1, 10)));
  const checkpoint = await openCheckpoint(storage);
  checkpoint.requireModel(AWKWARD.specs);
  const other = modelOf({
    ...Object.fromEntries(AWKWARD.specs.slice(1).map((spec) => [spec.name, [...spec.shape]])),
    "blocks.0.attn1.q_proj.weight": [11, 13],
    ...Object.fromEntries([1, 2, 3, 4].map((i) => [`blocks.9.p${i}`, [2]])),
  });
  const pattern =
    /4 tensors are missing \(blocks.9.p1, blocks.9.p2, blocks.9.p3, \.\.\.\); 1 tensor is surplus \(patch_embed.weight\); 1 tensor is of another shape \(blocks.0.attn1.q_proj.weight is 13x11, want 11x13\)/;
  assert.throws(() => checkpoint.requireModel(other.specs), refuses("CHECKPOINT_MISMATCH", pattern));
  await assert.rejects(checkpoint.readTensor("model/none"), refuses("CHECKPOINT_MISMATCH", /no such tensor/));
  await assert.rejects(
    checkpoint.readInterval({ tensor: "model/patch_embed.bias", start: 0, length: 2 }),
    RangeError,
  );
});

test("the meta of a state survives the round trip, with fields that this version does not know", async () => {
  const { storage } = memoryStorage();
  const name = state(1, 10);
  const meta = metaOf(name, layout, {
    job: { a: [1, { b: null }], 7: "x" },
    exclusions: [{ sample: 1, step: 3 }],
    ...{ later: { x: 1 } },
  });
  await saveAndCommit({ ...setup(storage, name), meta });
  assert.deepEqual((await openCheckpoint(storage)).meta, meta);
});

test("inspectCheckpoint() tells tensors, files and intervals that add up", async () => {
  const { storage } = memoryStorage();
  await saveAndCommit(setup(storage, state(1, 10)));
  const report = await inspectCheckpoint(storage);
  const elements = STATE_KINDS.length * AWKWARD.specs.reduce((sum, spec) => sum + spec.count, 0);
  assert.equal(report.elementCount, elements);
  assert.equal(report.bytes, 4 * elements);
  assert.equal(report.tensors.length, STATE_KINDS.length * AWKWARD.specs.length);
  assert.deepEqual(report.tensors[0], {
    name: "model/patch_embed.weight",
    shape: [7, 5],
    count: 35,
    bytes: 140,
    intervalCount: 2,
  });
  assert.deepEqual(
    report.files.map((file) => [file.name, file.writer]),
    [
      ["g1-w0.safetensors", 0],
      ["g1-w1.safetensors", 1],
    ],
  );
  assert.equal(
    report.intervals.reduce((sum, interval) => sum + interval.length, 0),
    elements,
  );
  assert.equal(
    report.tensors.reduce((sum, tensor) => sum + tensor.intervalCount, 0),
    report.intervals.length,
  );
  assert.deepEqual(report.meta, metaOf(state(1, 10), layout));
});

test("a rank reads the manifests of those writers alone that hold its part, whatever is wrong with the others", async () => {
  const { storage } = memoryStorage();
  const model = modelOf({ "patch_embed.weight": [48, 16], "final_proj.bias": [96] });
  const [saved, wide] = [layoutOf("2x4x1"), layoutOf("1x4x1")];
  const meta = metaOf(state(1, 10), saved);
  await saveAndCommit({ storage, model, layout: saved, meta, slots: path.join(scratch, `${folders++}`) });
  // Ranks 2 and 6 hold the third quarter; their parts alone are gone.
  await storage.delete(["checkpoint-10/g1-w2.json", "checkpoint-10/g1-w6.json"]);
  for (const kind of STATE_KINDS) {
    for (const rank of [0, 1, 2, 3]) {
      const checkpoint = await openCheckpoint(storage);
      const reading = readShard(checkpoint, { unit: model.units[0]!, layout: wide, rank, kind });
      if (rank !== 2) assert.equal((await reading).length, rank === 3 ? 192 : 224);
      else await assert.rejects(reading, refuses("CHECKPOINT_CORRUPT", /g1-w[26].json: it is missing/));
    }
  }
});
