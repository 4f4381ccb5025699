import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { LOAD_BUFFERS, LOAD_MEMORY_BYTES, LOAD_ROUND_BYTES_MAX } from "../../../checkpoint/load_plan.js";
import { Layout } from "../../../job/layout.js";
import { modelOf } from "../../checkpoint/fixtures.js";
import type { LoadCase } from "./load_rank.js";
import { Loads, loadCase, sum, wholeLoads } from "./loads.js";

const loads = new Loads();
const load = (cases: readonly LoadCase[]) => loads.load(cases);

/** Chunks of a MiB and small ones, a unit of several rounds, one smaller than a world of ranks, and one of a single element. */
const SHAPES = {
  "patch_embed.weight": [700, 1_000],
  "patch_embed.bias": [5],
  "blocks.0.norm2.weight": [300_000],
  "blocks.1.a": [3, 11],
  "blocks.2.b": [1],
};
const saved = (from: string, shapes: Record<string, number[]> = SHAPES) => loads.saved(from, shapes);
const caseOf = (root: string, to: string, more: Partial<LoadCase> = {}) => loadCase(SHAPES, root, to, more);

function filesOf(root: string, ending: string): string[] {
  const folder = path.join(root, "checkpoint-8");
  return readdirSync(folder)
    .filter((name) => name.endsWith(ending))
    .map((name) => path.join(folder, name));
}

const PAIRS = [
  ["1x1x1", "1x1x1"],
  ["1x1x1", "1x6x1"],
  ["1x4x1", "2x3x1"],
  ["2x2x1", "1x5x1"],
  ["3x1x2", "2x1x2"],
  ["1x6x1", "1x1x1"],
  ["1x2x2", "4x1x1"],
  ["2x3x1", "2x3x1"],
] as const;

test(`a state of any layout is read from storage once by all ranks of another together (${PAIRS.length} pairs)`, async () => {
  const cases = await Promise.all(PAIRS.map(async ([from, to]) => caseOf(await saved(from), to)));
  const stateBytes = 16 * sum(modelOf(SHAPES).specs.map(({ count }) => count));
  for (const [i, found] of (await load(cases)).entries()) {
    const { root, to } = cases[i]!;
    const what = PAIRS[i]!.join(" to ");
    const ranks = wholeLoads(found, what);
    const layout = Layout.parse(to);
    assert.equal(ranks.length, layout.worldSize);
    const files = filesOf(root, ".safetensors").map((file) => statSync(file).size);
    // all of every file, headers included, each byte once
    assert.equal(sum(ranks.map(({ dataBytes }) => dataBytes)), sum(files), what);
    assert.equal(sum(ranks.map(({ loaded }) => loaded.read)), stateBytes, what);
    assert.equal(sum(ranks.map(({ loaded }) => loaded.taken)), layout.dpReplicate * stateBytes, what);
    // a rank reads the commit record, and a manifest at most once
    const manifests = sum(filesOf(root, ".json").map((file) => statSync(file).size));
    for (const { manifestBytes } of ranks) assert.ok(manifestBytes <= manifests, what);
    for (const { peakBytes } of ranks) assert.ok(peakBytes <= 3 * LOAD_ROUND_BYTES_MAX, what);
  }
});

test("ranks read about as much each, and what one holds meanwhile does not grow with the state", async () => {
  const shapes = { "blocks.0.a": [3_000_000], "blocks.1.a": [3_000_001], "blocks.2.a": [2_999_999] };
  const root = await saved("1x2x1", shapes);
  const cases = ["1x3x1", "3x1x1", "2x2x1"].map((to) => caseOf(root, to, { shapes }));
  for (const [i, found] of (await load(cases)).entries()) {
    const ranks = wholeLoads(found, cases[i]!.to);
    const read = ranks.map(({ loaded }) => loaded.read);
    const even = sum(read) / read.length;
    assert.ok(Math.max(...read) <= 1.35 * even, `${cases[i]!.to}: ${read}`);
    for (const { peakBytes } of ranks)
      assert.ok(
        peakBytes <= LOAD_MEMORY_BYTES - LOAD_BUFFERS * LOAD_ROUND_BYTES_MAX,
        `${cases[i]!.to}: ${peakBytes}`,
      );
  }
});

test("what several ranks lack of a state is read once, and nothing else is read or written", async () => {
  const root = await saved("1x2x1");
  const lacking = { "ema/root": [0, 1, 2], "adam_v/blocks.0": [1], "model/blocks.2": [0] };
  const [found] = await load([caseOf(root, "2x3x1", { lacking })]);
  const ranks = wholeLoads(found!, "lacking");
  // ema/root whole; of adam_v/blocks.0 the chunks of the second third; the single element
  const third = 4 * 100_000;
  const read = sum(ranks.map(({ loaded }) => loaded.read));
  const least = 4 * 700_005 + third + 4;
  assert.ok(read >= least && read <= least + 2 * 2 ** 20, `${read} of at least ${least}`);
  assert.equal(sum(ranks.map(({ loaded }) => loaded.taken)), 2 * least);
});

test("a rank that finds a chunk damaged says so; the others are freed, and nobody waits", async () => {
  const root = await saved("1x2x1");
  const file = filesOf(root, "w1.safetensors")[0]!;
  const bytes = readFileSync(file);
  bytes[bytes.length - 5]! ^= 4;
  writeFileSync(file, bytes);
  const [damaged, sound] = await load([caseOf(root, "2x3x1"), caseOf(await saved("1x2x1"), "2x3x1")]);
  const told = damaged!.map(String);
  assert.equal(told.length, 6);
  assert.equal(
    told.filter((text) => /^CHECKPOINT_CORRUPT: .*w1.safetensors: MiB \d+ of /.test(text)).length,
    1,
  );
  for (const text of told) assert.match(text, /^(CHECKPOINT_CORRUPT|COMM_ABORTED|COMM_PEER_DIED): /);
  wholeLoads(sound!, "the same processes afterwards");
});

test("a rank whose generation ends while storage does not answer leaves, and so do the others", async () => {
  const root = await saved("1x2x1");
  const [ended] = await load([caseOf(root, "1x3x1", { aborted: 1 })]);
  assert.match(String(ended![1]), /^COMM_ABORTED: .*Cannot wait for storage: the generation is over/);
  for (const found of ended!) assert.match(String(found), /^COMM_/);
});

test("a checkpoint of another model is refused by all ranks", async () => {
  const root = await saved("1x1x1");
  const shapes = { ...SHAPES, "blocks.2.b": [2] };
  const [refused] = await load([caseOf(root, "1x2x1", { shapes })]);
  for (const found of refused!)
    assert.match(String(found), /^CHECKPOINT_MISMATCH: .*blocks.2.b is 1, want 2/);
});
