import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { gokuctl } from "../support/gokuctl.js";
import { Slurm, slurmMissing } from "../support/slurm.js";
import { until } from "../support/until.js";

const SCRIPT = path.resolve("deploy/slurm/goku.sbatch");
const missing = slurmMissing();

test("sbatch: a job that is preempted saves and goes back into the queue; started again it goes on from that very step, and ends", {
  skip: missing ?? false,
}, async (t) => {
  const slurm = await Slurm.start();
  t.after(() => slurm.stop());
  const at = (name: string) => path.join(slurm.folder, name);
  const data = await gokuctl(["data", "shapes", at("shapes")]);
  assert.equal(data.code, 0, data.stderr);
  const job = {
    name: "slurm",
    model: { preset: "goku-nano", latent_channels: 16, depth: 1, width: 64, heads: 2 },
    data: { media: at("shapes") },
    layout: { dp_replicate: 1, dp_shard: 2, sp: 1 },
    train: { steps: 4_000, packs_per_step: 2, tokens_per_pack: 128 },
    checkpoint: { uri: `file://${at("checkpoints")}`, every_steps: 100 },
  };
  writeFileSync(at("job.yaml"), JSON.stringify(job));
  const env = {
    GOKUCTL: `${process.execPath} ${path.resolve("dist/programs/gokuctl.js")}`,
    ...{ GOKU_RUN: at("run"), GOKU_SLOTS: "2" },
  };
  const args = ["--parsable", "--nodes=1", `--output=${at("out.log")}`, SCRIPT, at("job.yaml")];
  const id = slurm.ask("sbatch", args, env).trim();
  assert.match(id, /^\d+$/);
  const state = () => slurm.ask("squeue", ["-h", "-o", "%T"]).trim();
  const log = () => (existsSync(at("out.log")) ? readFileSync(at("out.log"), "utf8") : "");
  const steps = () =>
    existsSync(at("checkpoints"))
      ? readdirSync(at("checkpoints")).filter((name) => /^checkpoint-\d+$/.test(name))
      : [];

  await until(() => /step 100 of generation 1 is durable/.test(log()));
  slurm.ask("scancel", ["--signal=TERM", "--batch", id]);
  await until(() => state() === "PENDING");
  const newest = Math.max(...steps().map((name) => Number(name.split("-")[1])));
  assert.notEqual(newest % 100, 0, `the save of the one that left, not one of the plan:\n${log()}`);
  // Slurm would wait for two minutes; started within the second of its end, a node refuses the job's credential as revoked.
  slurm.ask("scontrol", ["update", `JobId=${id}`, "StartTime=now+3seconds"]);
  await until(() => log().includes(`trains from step ${newest} as`));
  assert.match(log(), /generation 2 trains from step/);
  await until(() => /COMPLETED|completed/.test(log()) && state() === "");
  assert.ok(steps().includes("checkpoint-4000"), steps().join());
});
