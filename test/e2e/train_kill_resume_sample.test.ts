import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { ControllerClient } from "../../cli/client.js";
import { followJob } from "../../cli/follow_job.js";
import { LocalCluster } from "../../cli/local_cluster.js";
import { codeVersion, productRevision, productVersion } from "../../job/version.js";
import { writeShapes } from "../../worker/data/shapes/write_shapes.js";
import { gokuctl } from "../support/gokuctl.js";

/**
 * The path of a newcomer through the commands a person types: train, a rank dies, why, stop, resume on another number of
 * ranks, sample. Real processes, real media, a model small enough for seconds. The tests go on from one another.
 */
const STEPS = 200;
const scratch = mkdtempSync(path.join(tmpdir(), "goku-e2e-"));
const stateDir = mkdtempSync("/dev/shm/goku-e2e-");
let cluster: LocalCluster;

before(async () => {
  await writeShapes({ directory: path.join(scratch, "media"), singles: 24, pairs: 8, clips: 3 });
  cluster = await LocalCluster.start({
    nodes: 2,
    slotsPerNode: 2,
    folder: path.join(scratch, "cluster"),
    stateDir,
  });
});
after(async () => {
  await cluster?.stop();
  rmSync(scratch, { recursive: true, force: true });
  rmSync(stateDir, { recursive: true, force: true });
});

function jobFile(name: string): string {
  const file = path.join(scratch, `${name}.yaml`);
  writeFileSync(
    file,
    `name: ${name}
model: { preset: goku-nano, depth: 2, width: 64 }
data: { media: ${scratch}/media }
layout: { dp_shard: 2, sp: 2 }
train: { steps: ${STEPS}, packs_per_step: 3, tokens_per_pack: 128 }
optimizer: { schedule: cosine, warmup_steps: 2 }
checkpoint: { uri: "file://${scratch}/${name}", every_steps: 20 }
sample: { prompts: [a red circle, a blue square], steps: 4 }
`,
  );
  return file;
}

async function json(args: string[]) {
  const result = await gokuctl([...args, "--json", "--controller", cluster.controller]);
  assert.equal(result.code, 0, `${args.join(" ")}: ${result.stderr}`);
  return JSON.parse(result.stdout);
}

/** Losses by step as REST tells them. */
async function losses(name: string): Promise<Map<number, number>> {
  const { history } = (await (await fetch(`${cluster.rest}/v1/jobs/${name}`)).json()) as {
    history: { step: number; loss: number }[];
  };
  return new Map(history.map(({ step, loss }) => [step, loss]));
}

async function rankPid(rank: number): Promise<number | null> {
  const { nodes } = (await (await fetch(`${cluster.rest}/v1/nodes`)).json()) as {
    nodes: { ranks: { rank: number; pid: number; phase: string }[] }[];
  };
  return nodes.flatMap((node) => node.ranks).find((one) => one.rank === rank)?.pid ?? null;
}

/** Follows a job's steps until `until` says so; ends with the job. */
async function follow(name: string, until: (step: number) => Promise<boolean>): Promise<void> {
  const client = new ControllerClient(cluster.controller);
  try {
    for await (const event of followJob(client, name)) {
      if (event.step && (await until(Number(event.step.step)))) break;
    }
  } finally {
    client.close();
  }
}

test("train: a job runs to its end and prints how it went", async () => {
  const result = await gokuctl(["train", jobFile("whole"), "--controller", cluster.controller]);
  assert.equal(result.code, 0, result.stderr);
  assert.match(result.stdout, /phase +COMPLETED/);
  assert.equal((await losses("whole")).size, STEPS);
});

test("train, kill -9 a rank, stop: the losses are those of the undisturbed job, bit for bit", async () => {
  await json(["train", jobFile("hurt"), "--detach"]);
  let killedAt: number | null = null;
  await follow("hurt", async (step) => {
    if (killedAt === null) {
      // A rank's process is known from its node's first heartbeat on.
      const pid = await rankPid(3);
      if (pid === null) return false;
      process.kill(pid, "SIGKILL");
      killedAt = step;
    }
    return step >= killedAt + 3;
  });
  await json(["save", "hurt"]);
  const stopped = await json(["stop", "hurt"]);
  assert.equal(stopped.phase, "STOPPED", stopped.reason);
  assert.ok(stopped.step < STEPS, `stopped at ${stopped.step}`);
  assert.equal(stopped.checkpoint.step, stopped.step, "what was computed is durable");
  const [whole, hurt] = [await losses("whole"), await losses("hurt")];
  for (const [step, loss] of hurt) assert.equal(loss, whole.get(step), `step ${step}`);
});

test("why: the incident names the rank, who saw it, what was decided and what it cost", async () => {
  const { incidents } = await json(["why", "hurt", "--all"]);
  assert.equal(incidents.length, 1);
  const [incident] = incidents;
  assert.equal(incident.rank, 3);
  assert.match(incident.what, /rank 3 .*SIGKILL/);
  assert.ok(incident.evidence.length > 0 && incident.decision.length > 0);
  assert.equal(incident.outcome, "RECOVERED");
  assert.ok(incident.milestones.some((m: { name: string }) => m.name === "stepped"));
  const text = await gokuctl(["why", "hurt", "--controller", cluster.controller]);
  assert.match(text.stdout, /rank 3/);
});

test("resume --ckpt: three ranks instead of four finish the job, with losses that agree to rounding", async () => {
  const uri = path.join(scratch, "hurt");
  const result = await gokuctl([
    "resume",
    "--ckpt",
    uri,
    "--layout",
    "1x3x1",
    "--controller",
    cluster.controller,
  ]);
  assert.equal(result.code, 0, result.stderr);
  assert.match(result.stdout, /layout: .*not bit for bit/);
  assert.match(result.stdout, /COMPLETED/);
  const [whole, resumed] = [await losses("whole"), await losses("hurt")];
  assert.ok(resumed.has(STEPS));
  for (const [step, loss] of resumed) {
    const expected = whole.get(step)!;
    assert.ok(
      Math.abs(loss - expected) <= 1e-6 * Math.abs(expected),
      `step ${step}: ${loss}, want ${expected}`,
    );
  }
});

test("ckpt: ls, inspect and verify read what was written; a flipped byte is named", async () => {
  const uri = path.join(scratch, "hurt");
  const { checkpoints } = await json(["ckpt", "ls", uri]);
  assert.equal(checkpoints[0].step, STEPS);
  const { layout, version } = await json(["ckpt", "inspect", uri]);
  assert.deepEqual(layout, { dp_replicate: 1, dp_shard: 3, sp: 1 });
  assert.equal(version, codeVersion(productVersion(), productRevision()));
  assert.deepEqual((await json(["ckpt", "verify", uri])).bad, []);
  const folder = path.join(uri, `checkpoint-${STEPS}`);
  const file = path.join(folder, readdirSync(folder).find((name) => name.endsWith(".safetensors"))!);
  const original = readFileSync(file);
  const harmed = Buffer.from(original);
  harmed[harmed.length - 5]! ^= 1;
  writeFileSync(file, harmed);
  const found = await gokuctl(["ckpt", "verify", uri]);
  assert.equal(found.code, 7, found.stdout + found.stderr);
  assert.match(found.stdout, new RegExp(path.basename(file)));
  writeFileSync(file, original);
});

test("sample: a sheet and clips come from the checkpoint alone", async () => {
  const uri = path.join(scratch, "hurt");
  const sheet = path.join(scratch, "sheet.png");
  const done = await gokuctl(["sample", "--ckpt", uri, "--out", sheet]);
  assert.equal(done.code, 0, done.stderr);
  assert.deepEqual([...readFileSync(sheet).subarray(0, 4)], [0x89, 0x50, 0x4e, 0x47]);
  const clip = path.join(scratch, "clip.mp4");
  const args = [
    "sample",
    "--ckpt",
    uri,
    "--out",
    clip,
    "--prompt",
    "a green circle moving right",
    "--steps",
    "2",
  ];
  assert.equal((await gokuctl(args)).code, 0);
  assert.equal(readFileSync(clip).subarray(4, 8).toString("latin1"), "ftyp");
});

test("train: a folder that holds an earlier run is refused, and its checkpoints stay", async () => {
  const result = await gokuctl(["train", jobFile("whole"), "--detach", "--controller", cluster.controller]);
  assert.equal(result.code, 4, result.stdout);
  assert.match(result.stderr, /CONFLICT: .*holds \d+ checkpoints of another run.*gokuctl resume/);
});

test("logs, jobs, status and metrics tell of what ran", async () => {
  const { jobs } = await json(["jobs"]);
  assert.deepEqual([...new Set(jobs.map((job: { name: string }) => job.name))].sort(), ["hurt", "whole"]);
  assert.equal((await json(["status", "whole"])).phase, "COMPLETED");
  const metrics = await (await fetch(`${cluster.rest}/metrics`)).text();
  assert.match(metrics, /^goku_incidents_total\{job="[a-z-]+",code="RANK_DIED"\} 1$/m);
  assert.match(metrics, new RegExp(`^goku_train_step\\{job="whole"\\} ${STEPS}$`, "m"));
});
