import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import sharp from "sharp";
import { gokuctl } from "../support/gokuctl.js";
import { refused } from "../support/refused.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-cli-plan-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const file = path.join(scratch, "job.yaml");
writeFileSync(
  file,
  `name: planned
data: { media: ${scratch}/media }
train: { steps: 2, packs_per_step: 4, tokens_per_pack: 48 }
checkpoint: { uri: "file://${scratch}/run", replica_mib_per_second: 4 }
`,
);

before(async () => {
  mkdirSync(path.join(scratch, "media"));
  for (const name of ["a", "b", "c", "d"]) {
    const picture = sharp({ create: { width: 32, height: 32, channels: 3, background: "red" } });
    await picture.png().toFile(path.join(scratch, "media", `${name}.png`));
    writeFileSync(path.join(scratch, "media", `${name}.txt`), "a red square");
  }
});

async function plan(...args: string[]) {
  return planOf(file, ...args);
}

async function planOf(job: string, ...args: string[]) {
  const { stdout, stderr, code } = await gokuctl(["plan", job, ...args, "--json"]);
  assert.equal(code, 0, stderr);
  assert.doesNotMatch(stdout, /"[a-z]+[A-Z]\w*":/, "keys are snake_case");
  return JSON.parse(stdout);
}

test("plan: every layout of the ranks, with the one that the controller would choose", async () => {
  const { layouts, recommended } = await plan("--local", "2x2");
  const names = layouts.map(({ layout, recompute }: { layout: object; recompute: string }) =>
    [...Object.values(layout), recompute].join(" "),
  );
  assert.equal(names.length, 3 * 5);
  assert.ok(names.includes("1 2 2 full") && names.includes("4 1 1 none"));
  assert.deepEqual(recommended.layout, { dp_replicate: 1, dp_shard: 4, sp: 1 });
  assert.equal(recommended.recompute, "selective");
  assert.match(recommended.reason, /auto chose 1x4x1: 4 ranks, each takes packs of its own/);
});

test("plan: what drawing previews takes on rank 0's node, and whether that is left", async () => {
  assert.equal((await plan("--local", "1x2")).previews, null);
  const drawing = path.join(scratch, "drawing.yaml");
  const sample = "sample: { every_steps: 10, prompts: [a red square] }\n";
  writeFileSync(drawing, readFileSync(file, "utf8") + sample);
  const cluster = (memory: string) => ["--nodes", "1", "--slots", "2", "--memory", memory];
  const { previews } = await planOf(drawing, ...cluster("64GiB"));
  const { total, ...parts } = previews.needed_bytes;
  assert.equal(
    Object.values<number>(parts).reduce((sum, bytes) => sum + bytes, 0),
    total,
  );
  assert.equal(previews.fits, true);
  const text = await gokuctl(["plan", drawing, ...cluster("2GiB")]);
  assert.match(text.stdout, /^previews +\d+\.\d MiB at most on rank 0's node, /m);
});

test("plan: the pack report, and the largest pack as the data have it", async () => {
  const { data, largest_pack, step } = await plan("--slots", "1");
  // pictures of 16 tokens, 3 to a pack
  assert.equal(data.images, 4);
  assert.equal(data.packs_per_epoch, 2);
  assert.deepEqual(data.samples_per_pack, { min: 1, mean: 2, max: 3 });
  assert.equal(data.fill_min, 16 / 48);
  assert.deepEqual(largest_pack, { known_from: "data", tokens: 48, samples: 3, text_tokens: 3 * 4 });
  assert.equal(step.tokens_mean, Math.round(4 * 48 * (64 / 96)));
});

test("plan: without the data it says so and assumes the largest pictures and captions", async () => {
  const elsewhere = await gokuctl(["plan", file, "data.media=/nowhere/media", "--slots", "2"]);
  assert.equal(elsewhere.code, 0, elsewhere.stderr);
  assert.match(elsewhere.stdout, /data +\/nowhere\/media is not here: planned without it/);
  const { data, largest_pack } = await plan("--no-data", "--slots", "2");
  assert.equal(data, null);
  assert.deepEqual(largest_pack, { known_from: "assumed", tokens: 48, samples: 3, text_tokens: 3 * 16 });
});

test("plan: what a checkpoint takes, and what a lost node may cost at the rate of the job", async () => {
  const { parameters, recommended } = await plan("--nodes", "2", "--slots", "2", "--memory", "8GiB");
  const { checkpoint } = recommended;
  assert.equal(checkpoint.durable_bytes, 16 * parameters);
  assert.equal(checkpoint.slots_per_rank, 5);
  assert.equal(checkpoint.transfer_seconds, checkpoint.replica_bytes_per_transfer / (4 * 2 ** 20));
  assert.equal(checkpoint.lost_seconds_max, 2 * checkpoint.transfer_seconds);
});

test("plan: the layout of the job is taken, its ranks too unless others are given", async () => {
  const own = await plan("layout.sp=2");
  assert.deepEqual([own.ranks_per_node, own.recommended.layout.sp, own.note], [2, 2, null]);
  const other = await plan("layout.sp=2", "--slots", "3");
  assert.match(other.note, /layout 1x1x2 of the job is for 2 ranks, not 3: planned as layout auto/);
});

test("plan --gpu: by kind, computed and not measured, and it says so", async () => {
  const gpus = ["model.preset=goku-8b", "precision=bf16", "--no-data", "--gpu", "h200:141GB", "--gpus", "64"];
  const { gpu, nodes, recommended, measured } = await plan(...gpus);
  assert.deepEqual(gpu, { name: "h200", memory_bytes: 141e9 });
  assert.equal(nodes, 8);
  assert.match(measured, /not on a device/);
  const { total, ...kinds } = recommended.rank_bytes;
  assert.deepEqual(Object.keys(kinds), [
    "parameters",
    "gradients",
    "optimizer",
    "ema",
    "activations",
    "workspace",
    "pack",
  ]);
  assert.ok(total < 0.9 * 141e9);
  const { stdout } = await gokuctl(["plan", file, ...gpus]);
  assert.match(stdout, /none was measured on a GPU/);
  assert.doesNotMatch(stdout, /seconds a step|step time/);
});

test("plan --gpu: ranks without a pack are counted alike in the reason and below it", async () => {
  const gpus = ["model.preset=goku-8b", "--no-data", "--gpu", "h200:141GB", "--gpus", "64"];
  const idle = await gokuctl(["plan", file, ...gpus]);
  assert.match(idle.stdout, /why .* 32 without a pack: raise train\.packs_per_step/);
  assert.match(idle.stdout, /ranks without a pack +32: raise train\.packs_per_step/);
});

test("plan --help: its example for GPUs fits them, and every GPU has packs", async () => {
  const help = await gokuctl(["plan", "--help"]);
  const example = /gokuctl plan job\.yaml (.*--gpu.*)/.exec(help.stdout)![1]!.split(" ");
  const { recommended } = await plan(...example, "--no-data");
  assert.equal(recommended.ranks_without_pack, 0);
});

test("plan --gpu: another layout is recommended where that of auto fits only when every block runs twice", async () => {
  const long = [
    "model.preset=goku-8b",
    "precision=bf16",
    "train.packs_per_step=64",
    "train.tokens_per_pack=90000",
  ];
  const shape = ["data.max_pixels=147456", "data.codec.stride=[4, 8, 8]", "--no-data"];
  const { layouts, recommended } = await plan(...long, ...shape, "--gpu", "h200:141GB", "--gpus", "64");
  assert.deepEqual(recommended.layout, { dp_replicate: 1, dp_shard: 16, sp: 4 });
  assert.equal(recommended.recompute, "selective");
  assert.match(
    recommended.reason,
    /auto would choose 1x64x1, which fits only when every block runs forward twice/,
  );
  const over = layouts.filter(({ fits }: { fits: boolean }) => !fits);
  for (const { missing, missing_bytes } of over) assert.ok(missing === "memory" && missing_bytes > 0);
});

test("plan: what does not fit ends with one line that names what is missing and the nearest that would", async () => {
  const large = ["plan", file, "model.preset=goku-8b", "precision=bf16", "--no-data"];
  const small = [...large, "--gpu", "a10:24GB", "--gpus", "4"];
  const line =
    /^MEMORY_SHORT: Cannot fit planned on 4 GPUs of 22\.4 GiB: with layout \S+ and recompute full it lacks [\d.]+ GiB of memory on each GPU; (8|16) GPUs would fit \(layout \S+, recompute \w+\)/;
  const { code, stderr, stdout } = await gokuctl(small);
  assert.equal(code, 2);
  assert.match(stderr, line);
  assert.equal(stderr.trim().split("\n").length, 1);
  assert.match(stdout, /over \d/, "the table is there all the same");
  const fixed = await gokuctl([...large, "layout.dp_replicate=4", "--gpu", "b:128GiB", "--gpus", "4"]);
  assert.match(fixed.stderr, /with layout 4x1x1 .* lacks .*; layout 1x4x1 and recompute none would fit/);
  const shm = await gokuctl(["plan", file, "--slots", "2", "--shared-memory", "10MiB", "--no-data"]);
  assert.match(shm.stderr, /lacks [\d.]+ MiB of shared memory on a node; /);
});

test("plan: the table fits 80 columns", async () => {
  const { stdout } = await gokuctl(["plan", file, "--local", "2x2"]);
  const rows = stdout.split("\n").filter((line) => /^(LAYOUT|\d+x\d+x\d+) /.test(line));
  assert.equal(rows.length, 1 + 15);
  for (const row of rows) assert.ok(row.length <= 80, row);
});

test("plan: wrong options are refused with what is wanted", async () => {
  await refused(["plan", file, "--gpus", "8"], 2, /ARGUMENT_INVALID: .*want --gpu NAME:MEMORY/);
  await refused(["plan", file, "--gpu", "h200"], 2, /ARGUMENT_INVALID: Cannot read --gpu: .*h200:141GB/);
  await refused(
    ["plan", file, "--gpu", "h200:141GB", "--gpus", "12"],
    2,
    /12 GPUs: nodes have 8, want a multiple/,
  );
  await refused(
    ["plan", file, "--local", "2x2", "--slots", "4"],
    2,
    /either --local, or --nodes and --slots/,
  );
  await refused(["plan", file, "--memory", "much"], 2, /Cannot read --memory: found "much"/);
});
