import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { diffTensors } from "../../checkpoint/diff.js";
import { diffFacts } from "../../checkpoint/diff_facts.js";
import { openCheckpoint } from "../../checkpoint/load.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import {
  AWKWARD,
  layoutOf,
  memoryStorage,
  metaOf,
  modelOf,
  refuses,
  saveAndCommit,
  scratchFolder,
  state,
  writeValues,
} from "./fixtures.js";

const scratch = scratchFolder();
const single = layoutOf("1x1x1");
const PAIR = modelOf({ "patch_embed.weight": [3, 2], "patch_embed.bias": [5] });

const plain = (model = PAIR, more = {}) => ({
  storage: memoryStorage().storage,
  model,
  layout: single,
  meta: metaOf(state(1, 4), single, more),
});

test("diffTensors() finds a state equal to itself whatever layouts wrote it, NaN and all", async () => {
  const opened = [];
  for (const text of ["1x1x1", "2x3x1"]) {
    const [layout, storage] = [layoutOf(text), memoryStorage().storage];
    const meta = metaOf(state(1, 4), layout);
    await saveAndCommit({ storage, model: AWKWARD, layout, meta, slots: path.join(scratch, text) });
    opened.push(await openCheckpoint(storage));
  }
  const [a, b] = opened as [(typeof opened)[0], (typeof opened)[0]];
  const found = await diffTensors(a!, b!, { kinds: STATE_KINDS });
  assert.equal(found.length, 4 * AWKWARD.specs.length);
  for (const each of found)
    assert.deepEqual([each.differing, each.maxAbs, each.relative], [0, 0, 0], each.tensor);
  const facts = diffFacts(a!, b!);
  assert.deepEqual(facts, [{ fact: "layout", a: "1x1x1", b: "2x3x1" }]);
});

test("diffTensors() says how far apart tensors are, the furthest first, of the kinds that are asked for", async () => {
  const a = await writeValues(plain(), (tensor, i) => (tensor === "model/patch_embed.bias" ? 3 + i : 1));
  // 3,4,5,6,7 against 3,4,5,6,5: ||a-b|| = 2 and ||b|| = sqrt(111). -0 has other bits than 0 and the same value.
  const b = await writeValues(plain(), (tensor, i) => {
    if (tensor === "model/patch_embed.bias") return i === 4 ? 5 : 3 + i;
    if (tensor === "ema/patch_embed.bias") return i === 0 ? 0 : 1;
    return 1;
  });
  const found = await diffTensors(a, b, { kinds: ["model", "ema"] });
  assert.deepEqual(
    found.map(({ tensor, differing }) => [tensor, differing]),
    [
      ["ema/patch_embed.bias", 1],
      ["model/patch_embed.bias", 1],
      ["model/patch_embed.weight", 0],
      ["ema/patch_embed.weight", 0],
    ],
  );
  assert.deepEqual([found[0]!.maxAbs, found[0]!.relative], [1, 0.5]);
  assert.deepEqual([found[1]!.maxAbs, found[1]!.relative], [2, Math.sqrt(4 / 111)]);
  const only = await diffTensors(a, b, { kinds: ["adam_v"] });
  assert.deepEqual(only.map(({ tensor }) => tensor).sort(), [
    "adam_v/patch_embed.bias",
    "adam_v/patch_embed.weight",
  ]);
});

test("diffTensors() gives zeros, signed zeros, infinities and NaN a meaning", async () => {
  const cases: [a: number, b: number, differing: number, relative: number][] = [
    [0, 0, 0, 0],
    [-0, 0, 5, 0],
    [1, 0, 5, Number.POSITIVE_INFINITY],
    [Number.NaN, 1, 5, Number.POSITIVE_INFINITY],
    [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 5, Number.POSITIVE_INFINITY],
    [Number.NaN, Number.NaN, 0, 0],
  ];
  for (const [x, y, differing, relative] of cases) {
    const model = modelOf({ "patch_embed.bias": [5] });
    const a = await writeValues(plain(model), () => x);
    const b = await writeValues(plain(model), () => y);
    const [found] = await diffTensors(a, b, { kinds: ["model"] });
    assert.deepEqual([found!.differing, found!.relative], [differing, relative], `${x} against ${y}`);
  }
});

test("diffTensors() reads tensors larger than its parts whole, and checks what it reads", async () => {
  const model = modelOf({ "patch_embed.weight": [5, 1 << 20] });
  const last = 5 * (1 << 20) - 1;
  const a = await writeValues(plain(model), () => 2);
  const other = memoryStorage();
  const b = await writeValues({ ...plain(model), storage: other.storage }, (_, i) => (i === last ? 6 : 2));
  const moved: number[] = [];
  const onProgress = ({ bytesDone, bytesTotal }: { bytesDone: number; bytesTotal: number }) =>
    moved.push(bytesDone / bytesTotal);
  const [found] = await diffTensors(a, b, { kinds: ["model"], onProgress });
  assert.deepEqual([found!.count, found!.differing, found!.maxAbs], [last + 1, 1, 4]);
  assert.ok(moved.length > 2, "in parts");
  assert.equal(moved.at(-1), 1);
  other.disk.damage("/run/checkpoint-4/g1-w0.safetensors", (bytes) => bytes.with(bytes.length >> 1, 77));
  await assert.rejects(
    diffTensors(a, b, { kinds: STATE_KINDS }),
    refuses("CHECKPOINT_CORRUPT", /differs from its digest/),
  );
});

test("diffFacts() names every difference, with dotted keys of the job, and parameters missing, surplus and reshaped", async () => {
  const job = { seed: 1, optimizer: { lr: 0.1, betas: [0.9, 0.95] } };
  const a = await writeValues(plain(PAIR, { job }), () => 0);
  const model = modelOf({ "patch_embed.weight": [2, 3], "time_embed.fc1.bias": [5] });
  const meta = {
    job: { ...job, optimizer: { ...job.optimizer, lr: 0.2 }, precision: "bf16" },
    parent: state(0, 2),
  };
  const b = await writeValues(plain(model, { ...meta, dataDigest: "e".repeat(64) }), () => 0);
  assert.deepEqual(diffFacts(a, b), [
    { fact: "parent", a: null, b: "0-2" },
    { fact: "data digest", a: "d".repeat(64), b: "e".repeat(64) },
    { fact: "job.optimizer.lr", a: 0.1, b: 0.2 },
    { fact: "parameter patch_embed.weight", a: "3 x 2", b: "2 x 3" },
    { fact: "parameter patch_embed.bias", a: "5", b: null },
    { fact: "job.precision", a: null, b: "bf16" },
    { fact: "parameter time_embed.fc1.bias", a: null, b: "5" },
  ]);
  assert.deepEqual(diffFacts(a, a), []);
  assert.deepEqual(await diffTensors(a, b, { kinds: STATE_KINDS }), [], "of no tensor in common");
});
