import assert from "node:assert/strict";
import { readdirSync, statSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { planJob } from "../../cli/plan/plan_job.js";
import { modelConfig } from "../../job/job.js";
import { reportData } from "../../worker/data/pack_source.js";
import { TestCluster, testJob } from "../faults/cluster.js";

/** Bytes of the slot files below a node's folder whose set's name begins so. */
function slotBytes(node: string, kind: "rank" | "replica"): number {
  const files = readdirSync(node, { recursive: true, encoding: "utf8" }).filter(
    (name) => /slot-\d+$/.test(name) && path.basename(path.dirname(name)).startsWith(`${kind}-`),
  );
  return files.reduce((sum, name) => sum + statSync(path.join(node, name)).size, 0);
}

test("two nodes hold in memory what the plan of their job says", { timeout: 600_000 }, async () => {
  const cluster = await TestCluster.start({ nodes: 2, slots: 2 });
  try {
    const job = await testJob(cluster.folder, [
      "train.steps=100000",
      "checkpoint.every_steps=100000",
      "recompute=selective",
    ]);
    const data = await reportData({ job, model: modelConfig(job) });
    const gib = 2 ** 30;
    const { candidates } = planJob(
      job,
      {
        device: "cpu",
        nodes: 2,
        slots: 2,
        gpu: null,
        memoryBytes: gib,
        sharedMemoryBytes: gib,
        memorySource: "test",
      },
      data,
    );
    const planned = candidates.find(({ layout }) => layout.toString() === "1x2x2")!;
    assert.ok(planned.memory.device === "cpu");

    await cluster.submit(job);
    // Two states have been sent when another one is replicated than the first: into the two slots of each copy.
    await cluster.replicated(1);
    const { job: status } = await cluster.client.call("getJob", { name: job.name });
    await cluster.replicated(Number(status!.replicatedStep) + 1);

    const nodes = readdirSync(cluster.stateDir).map((name) => path.join(cluster.stateDir, name));
    const most = (kind: "rank" | "replica") => Math.max(...nodes.map((node) => slotBytes(node, kind)));
    assert.equal(most("rank"), planned.snapshots.ownBytes);
    assert.equal(most("replica"), planned.snapshots.keptBytes);
    const { step } = planned.memory;
    const peak = Math.max(...cluster.record.steps.map(({ memoryPeakBytes }) => memoryPeakBytes));
    assert.ok(
      peak <= step.total && peak >= 0.8 * step.total,
      `measured ${peak}, planned ${step.total} at most`,
    );
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${cluster.logs}`, { cause: error });
  } finally {
    await cluster.stop();
  }
});
