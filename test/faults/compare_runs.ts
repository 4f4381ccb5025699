import assert from "node:assert/strict";
import { openCheckpoint } from "../../checkpoint/load.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import type { Incident } from "../../gen/goku/v1/controller.pb.js";
import type { Job } from "../../job/job.js";
import {
  type RunRecord,
  type TestCluster,
  type TestClusterOptions,
  testJob,
  withCluster,
} from "./cluster.js";

/** Of testJob(). */
export const STEPS = 30;
/** Ends a run that hangs, so that the suite does; far above what a busy machine takes. */
export const LIMIT = { timeout: 600_000 };

/** Runs one job on a cluster of its own; `harm` may do things to it meanwhile. */
export async function run(
  options: TestClusterOptions & { overrides?: string[] },
  harm: (cluster: TestCluster) => Promise<void> = async () => {},
): Promise<{ record: RunRecord; incidents: Incident[]; cluster: TestCluster; job: Job }> {
  return withCluster(options, async (cluster) => {
    const job = await testJob(cluster.folder, options.overrides ?? []);
    await cluster.submit(job);
    await harm(cluster);
    const record = await cluster.follow();
    const { incidents } = await cluster.client.call("listIncidents", { job: job.name });
    return { record, incidents, cluster, job };
  });
}

/** The run that nothing disturbed; what all others must equal. */
let undisturbed: Promise<{ record: RunRecord; job: Job }> | null = null;
export function reference(): Promise<{ record: RunRecord; job: Job }> {
  undisturbed ??= run({});
  return undisturbed;
}

/**
 * Same losses at every step, same final state bit for bit. With `untoldMax` some steps may not have been told: an agent
 * that is killed takes with it what it had not sent yet.
 */
export async function assertSameRun(
  found: { record: RunRecord; cluster: TestCluster; job: Job },
  untoldMax = 0,
): Promise<void> {
  const wanted = await reference();
  const { record, cluster, job } = found;
  const explain = `${record.phase}\n${cluster.logs}`;
  assert.equal(record.phase, "COMPLETED", explain);
  for (const [step, loss] of record.losses)
    assert.equal(loss, wanted.record.losses.get(step), `loss of step ${step}`);
  assert.ok(record.losses.size >= STEPS - untoldMax, `${record.losses.size} of ${STEPS} steps told`);
  const [a, b] = await Promise.all([job, wanted.job].map((one) => openCheckpoint(one.checkpoint.uri)));
  assert.equal(a!.meta.state.step, STEPS);
  assert.equal(a!.meta.adamStep, b!.meta.adamStep);
  for (const { name } of a!.specs) {
    for (const kind of STATE_KINDS) {
      const tensor = `${kind}/${name}`;
      const [left, right] = [await a!.readTensor(tensor), await b!.readTensor(tensor)];
      assert.ok(Buffer.from(left.buffer).equals(Buffer.from(right.buffer)), `${tensor} differs`);
    }
  }
}

export function generations(record: RunRecord): number {
  return new Set(record.steps.map((step) => step.generation)).size;
}
