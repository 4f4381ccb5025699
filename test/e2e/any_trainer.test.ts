import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, it } from "node:test";
import { stringify } from "yaml";
import { type CommandJob, commandJobSchema } from "../../job/command_job.js";
import { readStat } from "../../worker/program/process_stat.js";
import { TestCluster, type TestClusterOptions } from "../faults/cluster.js";
import { gokuctl } from "../support/gokuctl.js";
import { until } from "../support/until.js";

const PROGRAM = path.join(import.meta.dirname, "../support/rendezvous_program.js");
const scratch = mkdtempSync(path.join(tmpdir(), "goku-any-trainer-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** A job of four ranks whose program has its own folder to write to. */
function programJob(
  args: string[],
  recovery: Partial<CommandJob["recovery"]> = {},
  layout: CommandJob["layout"] = { dp_replicate: 1, dp_shard: 4, sp: 1 },
) {
  const dir = mkdtempSync(path.join(scratch, "job-"));
  const job = commandJobSchema.parse({
    name: "ddp",
    trainer: { command: [process.execPath, PROGRAM, ...args], env: { DIR: dir }, cwd: scratch },
    layout,
    recovery,
  });
  /** Pids that a start of the program has written, children included, once all ranks have. */
  const pidsOf = async (restarts: number, ranks = [0, 1, 2, 3]) => {
    const names = ranks.map((rank) => `${rank}.${restarts}`);
    await until(() => names.every((name) => readdirSync(dir).includes(name)));
    return names.flatMap((name) => readFileSync(path.join(dir, name), "utf8").trim().split(" ").map(Number));
  };
  return { job, pidsOf };
}

const gone = (pid: number) => readStat(pid) === null;

/** A cluster of two nodes with two slots each; a failed test carries its logs. */
async function withCluster(
  body: (cluster: TestCluster) => Promise<void>,
  options: TestClusterOptions = {},
): Promise<void> {
  const cluster = await TestCluster.start(options);
  try {
    await body(cluster);
  } catch (error) {
    throw new Error(`${(error as Error).stack}\n${cluster.logs}`);
  } finally {
    await cluster.stop();
  }
}

async function ask(cluster: TestCluster, ...args: string[]) {
  const { code, stdout, stderr } = await gokuctl([...args, "--controller", cluster.local.controller]);
  assert.equal(code, 0, stderr);
  return stdout;
}

describe("a job that runs a program of its own", () => {
  it("is trained as a person does it: four ranks meet at the master's address, and the job is completed", async () => {
    const { job } = programJob(["steps=4"]);
    const file = path.join(scratch, "job.yaml");
    writeFileSync(file, stringify(job));
    mkdirSync(path.join(scratch, "tmp"));
    const run = await gokuctl(["train", file, "--local", "2x2"], {
      env: { TMPDIR: path.join(scratch, "tmp") },
    });
    assert.equal(run.code, 0, run.stderr + run.stdout);
    assert.match(
      run.stdout,
      /phase +COMPLETED\nreason +all 4 programs ended with exit code 0\nprogress +step 4\nloss +0\.2500/,
    );
    assert.match(run.stdout, /incidents +none/);
  });

  it("starts again where one rank fails, and goes on with restart count 1", () =>
    withCluster(async (cluster) => {
      const { job, pidsOf } = programJob(["steps=4", "fail=2"]);
      await cluster.submit(job);
      const { phase } = await cluster.follow();
      assert.equal(phase, "COMPLETED");
      assert.ok((await pidsOf(0)).every(gone));
      assert.equal(
        new Set([...(await pidsOf(0)), ...(await pidsOf(1))]).size,
        8,
        "every rank was started twice",
      );
      const why = await ask(cluster, "why", "ddp");
      assert.match(why, /what +rank 2 on node-b: PROGRAM_FAILED in program: the program exited with code 3/);
      assert.match(why, /last lines\n(.*\n)* *rank 2 has bad luck/);
      assert.match(why, /generation +1 -> 2/);
      const logs = await ask(cluster, "logs", "ddp", "--rank", "3");
      assert.equal(logs.match(/rank 3: the ranks of 4 add up to 6/g)?.length, 2, logs);
    }));

  it("names the rank that hangs while the others beat, ends it, and goes on", () =>
    withCluster(async (cluster) => {
      const { job, pidsOf } = programJob(["steps=4", "hang=1"], { stall_seconds: 1 });
      await cluster.submit(job);
      const { phase } = await cluster.follow();
      assert.equal(phase, "COMPLETED");
      assert.ok((await pidsOf(0)).every(gone));
      const why = await ask(cluster, "why", "ddp");
      assert.match(
        why,
        /what +rank 1 on node-a: no heartbeat for \d+\.\d s, the last at step 3; 3 others went on/,
      );
      assert.match(why, /kill rank 1 on node-a, which hangs/);
      assert.match(why, /process \d+ \(node\): stopped by a signal/, "what it did is told");
    }));

  it("ends with its agent: no process of its ranks outlives a SIGKILL, and the job goes on when the agent is back", () =>
    withCluster(async (cluster) => {
      const { job, pidsOf } = programJob(["steps=100000", "child"]);
      await cluster.submit(job);
      const before = await pidsOf(0);
      assert.equal(before.length, 8);
      assert.ok(!before.some(gone));
      await cluster.kill("node-b");
      await until(() => before.every(gone));
      assert.ok(!(await pidsOf(1)).some(gone));
      await ask(cluster, "stop", "ddp");
      assert.ok((await pidsOf(1)).every(gone));
    }));

  it("is stopped with SIGTERM, at which its program may save, and nothing is left running", () =>
    withCluster(async (cluster) => {
      const { job, pidsOf } = programJob(["steps=100000", "child"]);
      await cluster.submit(job);
      const pids = await pidsOf(0);
      assert.match(await ask(cluster, "status", "ddp"), /phase +RUNNING/);
      assert.match(
        await ask(cluster, "stop", "ddp"),
        /phase +STOPPED\nreason +stopped as asked: all 4 programs ended/,
      );
      assert.ok(pids.every(gone));
      assert.equal((await ask(cluster, "logs", "ddp")).match(/saves and ends/g)?.length, 4);
    }));

  it("ends in order when a node is asked to leave, and with layout auto goes on with the ranks that are left", () =>
    withCluster(
      async (cluster) => {
        const { job, pidsOf } = programJob(["steps=100000"], {}, "auto");
        await cluster.submit(job);
        const before = await pidsOf(0);
        process.kill(cluster.local.pid("node-b"), "SIGTERM");
        await pidsOf(1, [0, 1]);
        assert.ok(before.every(gone));
        assert.match(await ask(cluster, "status", "ddp"), /layout +1x2x1/);
        const logs = await ask(cluster, "logs", "ddp");
        assert.equal(logs.match(/saves and ends/g)?.length, 4, logs);
        assert.match(
          await ask(cluster, "why", "ddp"),
          /NODE_PREEMPTED[\s\S]*its programs ended: start them without node-b/,
        );
        await ask(cluster, "stop", "ddp");
      },
      { restart: false },
    ));

  it("fails when its program always does: after max_attempts, with its last words", () =>
    withCluster(async (cluster) => {
      const { job } = programJob(["fail=all"], { max_attempts: 2 });
      await cluster.submit(job);
      const { phase } = await cluster.follow();
      assert.equal(phase, "FAILED");
      const status = await ask(cluster, "status", "ddp");
      assert.match(status, /NO_PROGRESS: Cannot recover: 2 of 2 attempts .* the program exited with code 4/);
      const why = await ask(cluster, "why", "ddp");
      assert.match(why, /last lines\n(.*\n)* *rank \d has bad luck/);
    }));

  it("has no checkpoints of ours, and says so", () =>
    withCluster(async (cluster) => {
      const { job } = programJob([]);
      await cluster.submit(job);
      await cluster.follow();
      const submitted = cluster.client.call("submitJob", {
        job: job as unknown as { [key: string]: unknown },
        resumeUri: `file://${scratch}`,
      });
      await assert.rejects(submitted, {
        code: "ARGUMENT_INVALID",
        message: /^Cannot resume job ddp from .*: its checkpoints are those of its own program/,
      });
      await assert.rejects(cluster.client.call("listCheckpoints", { job: "ddp" }), {
        code: "STATE_INVALID",
        message: /^Cannot list checkpoints of job ddp: its checkpoints are those of its own program/,
      });
    }));
});
