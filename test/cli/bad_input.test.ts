import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import sharp from "sharp";
import { modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { loadJob } from "../../job/load_job.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits } from "../../job/sharding.js";
import { metaOf, saveAndCommit } from "../checkpoint/fixtures.js";
import { gokuctl } from "../support/gokuctl.js";
import { refused } from "../support/refused.js";

/** Commands that need no cluster; each mistake is one line that says what to do, and an exit code. */
const scratch = mkdtempSync(path.join(tmpdir(), "goku-cli-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const run = path.join(scratch, "run");
const text = `name: tiny
model: { preset: goku-nano, depth: 1, width: 32, heads: 2, text_width: 16 }
data: { media: ${scratch}/media }
train: { steps: 2 }
checkpoint: { uri: "file://${run}" }
sample: { prompts: [a red circle] }
`;
const jobFile = path.join(scratch, "job.yaml");
writeFileSync(jobFile, text);

/** A committed checkpoint of that job, made without training. */
before(async () => {
  const job = loadJob(text, [], { file: "job" });
  const specs = parameterSpecs(modelConfig(job));
  const layout = new Layout({ dp_replicate: 1, dp_shard: 1, sp: 1 });
  await saveAndCommit({
    storage: `file://${run}`,
    model: { specs, units: flatUnits(specs) },
    layout,
    meta: metaOf({ generation: "1", step: 1 }, layout, { job }),
    slots: path.join(scratch, "slots"),
  });
});

test("data: an empty folder, one without captions, and one that is not there", async () => {
  mkdirSync(path.join(scratch, "empty"));
  const check = (folder: string) => ["data", "check", jobFile, `data.media=${path.join(scratch, folder)}`];
  await refused(check("empty"), 5, /DATA_EMPTY: .*holds no media.*put PNG/);
  mkdirSync(path.join(scratch, "mute"));
  writeFileSync(path.join(scratch, "mute/a.png"), "not a picture");
  await refused(check("mute"), 5, /DATA_EMPTY: .*none of 1 files can be used \(a\.png: no caption/);
  await refused(check("nowhere"), 5, /DATA_EMPTY: .*nowhere is not a folder.*gokuctl data shapes/);
});

test("data shapes: a place where no folder can be made", async () => {
  await refused(["data", "shapes", "/proc/goku/shapes"], 2, /ARGUMENT_INVALID: Cannot write to \/proc\/goku/);
});

test("train --local: an empty data set is refused before anything is started", async () => {
  mkdirSync(path.join(scratch, "bare"));
  await refused(
    ["train", jobFile, `data.media=${path.join(scratch, "bare")}`, "--local", "1x1"],
    5,
    /DATA_EMPTY/,
  );
});

test("data check: broken media are left out, counted and listed with the reason; the rest is there", async () => {
  const media = path.join(scratch, "media");
  mkdirSync(media);
  const picture = sharp({ create: { width: 32, height: 32, channels: 3, background: "red" } });
  await picture.png().toFile(path.join(media, "whole.png"));
  writeFileSync(path.join(media, "torn.png"), "not a picture");
  writeFileSync(path.join(media, "mute.png"), "no caption");
  for (const name of ["whole", "torn"]) writeFileSync(path.join(media, `${name}.txt`), "a red square");
  const json = JSON.parse((await gokuctl(["data", "check", jobFile, "--json"])).stdout);
  assert.equal(json.images, 1);
  assert.deepEqual(json.left_out.map(({ file }: { file: string }) => file).sort(), ["mute.png", "torn.png"]);
  const { stdout, code } = await gokuctl(["data", "check", jobFile]);
  assert.equal(code, 0);
  assert.match(stdout, /1 pictures, 0 clips, 2 files left out/);
  assert.match(stdout, /torn\.png +\S/);
  await refused(
    ["data", "check", jobFile, "train.tokens_per_pack=1"],
    5,
    /DATA_EMPTY: .*all 1 samples are longer than train\.tokens_per_pack 1, raise it/,
  );
});

test("resume: a checkpoint of another model, also with --dry-run", async () => {
  const resume = ["resume", "--ckpt", run, "--dry-run"];
  await refused(
    [...resume, "--set", "model.depth=3"],
    6,
    /CHECKPOINT_MISMATCH: .*missing.*blocks\.1.*use the model section it was trained with/,
  );
  await refused([...resume, "--set", "model.width=64"], 6, /CHECKPOINT_MISMATCH: .*of another shape/);
  const same = await gokuctl([...resume, "--json"]);
  assert.equal(same.code, 0, same.stderr);
});

test("resume: layouts that cannot be read, and two ways to ask for one", async () => {
  const resume = ["resume", "--ckpt", run, "--dry-run"];
  await refused([...resume, "--layout", "2x2"], 2, /LAYOUT_INVALID: .*2x2/);
  await refused([...resume, "--layout", "1x0x1"], 2, /LAYOUT_INVALID: .*0/);
  await refused([...resume, "--ranks", "0"], 2, /ARGUMENT_INVALID: .*--ranks.*"0".*at least 1/);
  await refused([...resume, "--ranks", "2", "--layout", "1x2x1"], 2, /ARGUMENT_INVALID: .*together/);
});

test("resume --set: relative paths count from where the command runs", async () => {
  const args = ["resume", "--ckpt", run, "--dry-run", "--json"];
  const set = ["--set", "data.media=./rel", "--set", "checkpoint.uri=file://./runs/b"];
  const { job } = JSON.parse((await gokuctl([...args, ...set], { cwd: scratch })).stdout);
  assert.deepEqual([job.data.media, job.checkpoint.uri], [`${scratch}/rel`, `file://${scratch}/runs/b`]);
});

test("ckpt: a folder that is not there, or is a file; a step that is no number", async () => {
  await refused(["ckpt", "ls", path.join(scratch, "nowhere")], 3, /NOT_FOUND: .*no such folder/);
  await refused(["ckpt", "ls", jobFile], 3, /NOT_FOUND: .*no such folder/);
  await refused(["ckpt", "verify", path.join(scratch, "nowhere")], 3, /NOT_FOUND/);
  await refused(["ckpt", "inspect", run, "--step", "x"], 2, /ARGUMENT_INVALID: .*--step.*"x"/);
});

test("ckpt --json: snake_case with plain numbers, and what cannot be read is in it", async () => {
  mkdirSync(path.join(run, "checkpoint-9"));
  writeFileSync(path.join(run, "checkpoint-9/manifest.json"), "torn");
  const { checkpoints, unreadable } = JSON.parse((await gokuctl(["ckpt", "ls", run, "--json"])).stdout);
  rmSync(path.join(run, "checkpoint-9"), { recursive: true });
  assert.equal(checkpoints[0].generation, 1);
  assert.match(checkpoints[0].committed_at, /^\d{4}-/);
  assert.match(unreadable[0].uri, /checkpoint-9$/);
  assert.equal(unreadable[0].error.code, "CHECKPOINT_CORRUPT");
  const inspected = JSON.parse((await gokuctl(["ckpt", "inspect", run, "--json"])).stdout);
  assert.equal(inspected.step, 1);
  const verified = JSON.parse((await gokuctl(["ckpt", "verify", run, "--json"])).stdout);
  assert.deepEqual([verified.generation, verified.bad], [1, []]);
  assert.ok(verified.chunk_count > 0);
  for (const document of [checkpoints, inspected, verified])
    assert.doesNotMatch(JSON.stringify({ ...document, job: null, codec: null }), /"[a-z]+[A-Z]\w*":/);
});

test("sample: sizes of zero, sizes far beyond what was trained, and names that are no picture", async () => {
  const sample = (...args: string[]) => ["sample", "--ckpt", run, ...args];
  await refused(sample("--out", "a.gif"), 2, /ARGUMENT_INVALID: .*\.png or \.mp4/);
  await refused(sample("--size", "0x32"), 2, /ARGUMENT_INVALID: .*--size.*"0x32"/);
  await refused(sample("--frames", "0"), 2, /ARGUMENT_INVALID: .*--frames.*at least 1/);
  await refused(sample("--steps", "0"), 2, /ARGUMENT_INVALID: .*--steps.*at least 1/);
  await refused(sample("--size", "100000x100000"), 2, /ARGUMENT_INVALID: .*trained on at most 1024 pixels/);
  await refused(sample("--frames", "100000"), 2, /ARGUMENT_INVALID: .*trained on at most 9 frames/);
});

test("--local: sizes of zero are refused, with --dry-run too", async () => {
  const train = ["train", jobFile, "--dry-run"];
  await refused([...train, "--local", "0x0"], 2, /ARGUMENT_INVALID: .*--local.*"0x0"/);
  await refused([...train, "--local", "2"], 2, /ARGUMENT_INVALID: .*--local.*"2"/);
  await refused([...train, "--local", "1x1", "--detach"], 2, /ARGUMENT_INVALID: .*detach/);
});

test("gokuctl: wrong usage is one line, and JSON with --json", async () => {
  await refused(["statsu"], 2, /ARGUMENT_INVALID: .*'statsu'.*Did you mean status\?/);
  await refused(["train"], 2, /ARGUMENT_INVALID: .*missing required argument 'file'/);
  for (const args of [["--json"], ["train", "--json"], ["ckpt", "--json"]]) {
    const { stderr, stdout, code } = await gokuctl(args);
    assert.deepEqual([code, stdout, JSON.parse(stderr).error.code], [2, "", "ARGUMENT_INVALID"]);
  }
});

test("gokuctl: every command shows the options that all share, and an example", async () => {
  for (const command of ["train", "resume", "why", "ckpt ls", "data shapes", "sample", "nodes", "doctor"]) {
    const { stdout } = await gokuctl([...command.split(" "), "--help"]);
    assert.match(stdout, /--json/, command);
    assert.match(stdout, new RegExp(`Examples?:\\n  gokuctl ${command}`), command);
  }
});
