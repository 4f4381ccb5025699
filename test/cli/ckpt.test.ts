import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import sharp from "sharp";
import { openCheckpoint } from "../../checkpoint/load.js";
import type { StateMeta } from "../../checkpoint/state.js";
import { Layout } from "../../job/layout.js";
import { codeVersion } from "../../job/version.js";
import { metaOf, saveAndCommit, state, tinyJob } from "../checkpoint/fixtures.js";
import { gokuctl } from "../support/gokuctl.js";
import { refused } from "../support/refused.js";

/** The commands that compare, delete, convert and move checkpoints, as a person and a script meet them. */
const scratch = mkdtempSync(path.join(tmpdir(), "goku-cli-ckpt-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const { job, model } = tinyJob(scratch, ["checkpoint.keep_last=1"]);
const run = path.join(scratch, "run");
const at = (name: string) => path.join(scratch, name);
const jobFile = at("job.json"); // which is YAML, too

async function save(
  root: string,
  generation: number,
  step: number,
  more: Partial<StateMeta> = {},
): Promise<void> {
  const layout = new Layout({ dp_replicate: 1, dp_shard: 2, sp: 1 });
  const meta = metaOf(state(generation, step), layout, { job, ...more });
  await saveAndCommit({ storage: `file://${root}`, model, layout, meta, slots: at("slots") });
}

async function json(...args: string[]) {
  const { stdout, stderr, code } = await gokuctl([...args, "--json"]);
  assert.ok(code === 0 || code === 1, stderr);
  assert.equal(stderr, "");
  const document = JSON.parse(stdout);
  assert.doesNotMatch(JSON.stringify(document), /"[a-z]+[A-Z]\w*":/, "keys are snake_case");
  return document;
}

before(async () => {
  writeFileSync(jobFile, JSON.stringify(job));
  for (const step of [1, 2, 3]) await save(run, 1, step);
  const media = at("media");
  mkdirSync(media);
  const picture = sharp({ create: { width: 32, height: 32, channels: 3, background: "red" } });
  await picture.png().toFile(path.join(media, "a.png"));
  writeFileSync(path.join(media, "a.txt"), "a red square");
});

test("ckpt diff: exit code 0 for equal ones, 1 for different ones, more for errors", async () => {
  const [two, three] = [path.join(run, "checkpoint-2"), path.join(run, "checkpoint-3")];
  const same = await gokuctl(["ckpt", "diff", run, three]);
  assert.deepEqual([same.code, same.stderr], [0, ""]);
  assert.match(same.stdout, /facts +equal\ntensors +all \d+ equal, bit for bit/);
  const other = await gokuctl(["ckpt", "diff", two, three, "--kind", "model"]);
  assert.equal(other.code, 1);
  assert.match(other.stdout, /facts +2 differ\ntensors +\d+ of \d+ differ/);
  assert.match(other.stdout, /^state +1-2 +1-3$/m);
  assert.doesNotMatch(other.stdout, /adam_m\//);
  const facts = await json("ckpt", "diff", two, three, "--facts");
  assert.deepEqual([facts.equal, facts.tensors, facts.facts.length], [false, null, 2]);
  const all = await json("ckpt", "diff", two, three, "--kind", "ema", "--kind", "adam_v");
  assert.equal(all.tensors.length, 2 * model.specs.length);
  await refused(["ckpt", "diff", run, at("nowhere")], 3, /NOT_FOUND/);
  await refused(
    ["ckpt", "diff", run, run, "--kind", "weights"],
    2,
    /--kind: found "weights", want one of model/,
  );
  await refused(["ckpt", "diff", run, run, "--kind", "ema", "--facts"], 2, /leave one out/);
  await refused(["ckpt", "diff", run, run, "--step", "2"], 2, /see gokuctl ckpt diff --help/);
});

test("ckpt prune: says what goes and why, deletes it, and never the newest nor what is not committed", async () => {
  const root = at("prune");
  for (const step of [1, 2, 3, 4]) await save(root, 1, step);
  mkdirSync(path.join(root, "checkpoint-5"));
  writeFileSync(path.join(root, "checkpoint-5/g1-w0.safetensors"), "being written");
  const plan = await json("ckpt", "prune", root, "--keep-every", "2", "--dry-run");
  const steps = (choices: { step: number }[]) => choices.map(({ step }) => step);
  assert.deepEqual([steps(plan.keep), steps(plan.remove), plan.removed], [[2, 4], [1, 3], null]);
  const dry = await gokuctl(["ckpt", "prune", root, "--keep-last", "2", "--dry-run"]);
  assert.match(dry.stdout, /^4 .*stays +it is number 1 of the 2 newest$/m);
  assert.match(dry.stdout, /^1 .*goes +2 newer ones stay$/m);
  assert.match(dry.stdout, /Would delete 2 of 4 .*nothing was deleted/);
  assert.equal(readdirSync(root).length, 5);
  const done = await json("ckpt", "prune", root); // keep_last 1, as the job says
  assert.deepEqual(done.removed, [1, 2, 3]);
  assert.deepEqual(readdirSync(root).sort(), ["checkpoint-4", "checkpoint-5"]);
  assert.ok(existsSync(path.join(root, "checkpoint-5/g1-w0.safetensors")));
  await refused(["ckpt", "prune", root, "--keep-last", "0"], 2, /--keep-last: found "0".*at least 1/);
  await refused(["ckpt", "prune", root, "--keep-every", "x"], 2, /--keep-every: found "x"/);
  await refused(
    ["ckpt", "prune", at("nowhere")],
    3,
    /NOT_FOUND: Cannot prune checkpoints of .*no such folder/,
  );
});

test("ckpt export and import: weights go out, and come back as the checkpoint of a job that resume takes", async () => {
  const folder = at("exported");
  const exported = await json("ckpt", "export", run, "--out", folder, "--max-shard-bytes", "50KB");
  assert.deepEqual([exported.step, exported.dtype, exported.folder], [3, "f32", folder]);
  await refused(
    ["ckpt", "export", run, "--out", folder],
    4,
    /CONFLICT: .*name a folder that is not there yet/,
  );
  await refused(
    ["ckpt", "export", run, "--out", at("x"), "--dtype", "f16"],
    2,
    /--dtype: found "f16", want f32 or bf16/,
  );
  await refused(
    ["ckpt", "export", run, "--out", at("x"), "--max-shard-bytes", "5 cats"],
    2,
    /want a size such as 5GB/,
  );
  assert.ok(!existsSync(at("x")));

  const imported = at("imported");
  const importing = [
    "ckpt",
    "import",
    folder,
    "--job",
    jobFile,
    "--set",
    `checkpoint.uri=file://${imported}`,
  ];
  const text = await gokuctl(importing);
  assert.equal(text.code, 0, text.stderr);
  assert.match(text.stdout, /weights +\d+ tensors of F32, as model and as averaged weights/);
  const checkpoint = await openCheckpoint(imported);
  const { meta } = checkpoint;
  assert.deepEqual([meta.state, meta.parent, meta.adamStep, meta.exclusions], [state(0, 0), null, 0, []]);
  assert.match(meta.dataDigest, /^[0-9a-f]{64}$/);
  assert.deepEqual(Object.keys(meta.codec as object), [
    "kind",
    "version",
    "stride",
    "channels",
    "patch",
    "first",
    "later",
  ]);
  const diff = await json("ckpt", "diff", imported, run, "--kind", "ema");
  assert.ok(diff.tensors.every(({ differing }: { differing: number }) => differing === 0));
  const resume = await gokuctl(["resume", "--ckpt", imported, "--layout", "1x2x1", "--dry-run"]);
  assert.match(resume.stdout, /Resuming tiny from step 0/);
  await refused(importing, 4, /CONFLICT: .*holds .*checkpoint-0 already/);
});

test("ckpt import: what does not fit is listed whole, the error is one line, and nothing is written", async () => {
  const folder = at("narrow");
  assert.equal((await gokuctl(["ckpt", "export", run, "--out", folder])).code, 0);
  const target = at("untouched");
  const importing = ["ckpt", "import", folder, "--job", jobFile, "--set", `checkpoint.uri=file://${target}`];
  const wide = await gokuctl([...importing, "--set", "model.width=64"]);
  assert.equal(wide.code, 6);
  assert.match(
    wide.stderr,
    /^CHECKPOINT_MISMATCH: Cannot import these weights: 1 of another model, \d+ of another shape/,
  );
  assert.equal(wide.stderr.trim().split("\n").length, 1);
  const rows = wide.stdout.trim().split("\n");
  assert.match(rows[0]!, /^NAME +WHAT +FOUND +WANT$/);
  assert.match(wide.stdout, /^model\.width +of another model +32 +64$/m);
  assert.ok(rows.length > 20, "every one of them");
  assert.ok(!existsSync(target));
  writeFileSync(at("noise.safetensors"), "not weights");
  await refused(
    ["ckpt", "import", at("noise.safetensors"), "--job", jobFile, "--set", `checkpoint.uri=file://${target}`],
    7,
    /CHECKPOINT_CORRUPT/,
  );
  await refused(
    ["ckpt", "import", at("nowhere"), "--job", jobFile, "--set", `checkpoint.uri=file://${target}`],
    3,
    /NOT_FOUND/,
  );
  await refused(["ckpt", "import", folder, "--job", at("none.yaml")], 3, /NOT_FOUND: Cannot read job file/);
});

test("ckpt reshard: the same state in the files of another layout, into a run without checkpoints", async () => {
  const out = at("resharded");
  const made = await json("ckpt", "reshard", run, "--layout", "2x1x2", "--out", out);
  assert.deepEqual([made.generation, made.step, made.layout.sp], [1, 3, 2]);
  assert.equal(
    readdirSync(path.join(out, "checkpoint-3")).length,
    9,
    "four writers, two files each, one record",
  );
  assert.equal((await json("ckpt", "diff", run, out)).equal, true);
  await refused(
    ["ckpt", "reshard", run, "--layout", "1x1x1", "--out", out],
    4,
    /CONFLICT: .*checkpoint-3 already/,
  );
  await refused(["ckpt", "reshard", run, "--layout", "1x1", "--out", at("y")], 2, /LAYOUT_INVALID: .*"1x1"/);
  assert.ok(!existsSync(at("y")));
  const inside = path.join(out, "checkpoint-3");
  await refused(
    ["ckpt", "reshard", run, "--layout", "1x1x1", "--out", inside],
    2,
    /want the folder of a run/,
  );
});

test("ckpt: every command says in its help what it does, with an example", async () => {
  for (const command of ["diff", "prune", "export", "import", "reshard"]) {
    const { stdout } = await gokuctl(["ckpt", command, "--help"]);
    assert.match(stdout, new RegExp(`Examples?:\n {2}gokuctl ckpt ${command}`));
    assert.match(stdout, /--json/);
  }
});

test("ckpt verify, export and reshard take --step as inspect does, and refuse one that is not the folder's", async () => {
  const steps = at("steps");
  for (const step of [10, 20]) await save(steps, 1, step);
  assert.equal((await json("ckpt", "verify", steps)).step, 20);
  assert.equal((await json("ckpt", "verify", steps, "--step", "10")).step, 10);
  assert.equal((await json("ckpt", "export", steps, "--step", "10", "--out", at("steps-export"))).step, 10);
  const resharded = ["ckpt", "reshard", steps, "--step", "10", "--layout", "1x1x1", "--out", at("steps-one")];
  assert.match((await json(...resharded)).uri, /checkpoint-10$/);
  await refused(["ckpt", "verify", steps, "--step", "15"], 3, /NOT_FOUND/);
  const other = ["ckpt", "inspect", path.join(steps, "checkpoint-20"), "--step", "10"];
  await refused(other, 2, /is the checkpoint of step 20, want the folder of the run/);
});

test("ckpt inspect shows the version and git revision of the code that computed a state; older ones have a version alone", async () => {
  const version = codeVersion("0.1.0", "5".repeat(40));
  const runs = at("versions");
  await save(runs, 1, 1);
  await save(runs, 1, 2, { version });
  const shown = async (step: string) => (await gokuctl(["ckpt", "inspect", runs, "--step", step])).stdout;
  assert.match(await shown("1"), /code version +0\.1\.0\n/);
  assert.match(await shown("2"), /code version +0\.1\.0\+git\.5{40}\n/);
  assert.equal((await json("ckpt", "inspect", runs, "--step", "2")).version, version);
});
