import assert from "node:assert/strict";
import path from "node:path";
import { after, test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import type { Job } from "../../job/job.js";
import { type RunRecord, TestCluster, testJob } from "../faults/cluster.js";
import { onEmulatedDevice } from "../support/emulated_device.js";
import { FakeNccl } from "../support/fake_nccl.js";

/**
 * A whole job on CUDA devices: controller, agents, ranks, snapshots and checkpoints are real, and so is the device where the addon that
 * GOKU_NATIVE names here is goku_cuda.node; with goku_cuda_emulated.node there are two that are not, and what carries bytes between them
 * stands in for NCCL.
 */
const nccl = onEmulatedDevice ? new FakeNccl() : null;
const ENVIRONMENT = {
  ...nccl?.env,
  GOKU_NATIVE: "", // the CPU's own, for what runs on the CPU
  GOKU_NATIVE_CUDA: path.resolve(process.env.GOKU_NATIVE!),
  GOKU_EMULATED_DEVICES: "2",
};
/** Ends a run that hangs; far above what a busy machine takes. */
const LIMIT = { timeout: 600_000 };
const STEPS = 4;
/** Of the checkpoint that is resumed. */
const MIDDLE = 3;

interface Run {
  record: RunRecord;
  job: Job;
  logs: string;
}

const stops: (() => Promise<void>)[] = [];
after(async () => {
  for (const stop of stops) await stop().catch(() => {});
  nccl?.remove();
});

/** Emulated ranks are slow; four on one real GPU rehearse four GPUs. */
const SLOTS = onEmulatedDevice ? 2 : 4;
const LAYOUT = onEmulatedDevice ? "1x2x1" : "1x2x2";

/** One job from its beginning to its end on one node; `resumeUri`: continues from there. */
async function run(options: { overrides: string[]; failpoints?: string; resumeUri?: string }): Promise<Run> {
  const { failpoints } = options;
  const cluster = await TestCluster.start({
    nodes: 1,
    slots: SLOTS,
    env: ENVIRONMENT,
    ...(failpoints === undefined ? {} : { failpoints }),
  });
  stops.push(() => cluster.stop());
  const job = await testJob(cluster.folder, [...SMALL, ...options.overrides]);
  await cluster.submit(job, options.resumeUri);
  const record = await cluster.follow();
  const { logs } = cluster;
  assert.equal(record.phase, "COMPLETED", logs);
  if (failpoints !== undefined) assert.equal(cluster.fired.length, 1, logs);
  await cluster.stop();
  stops.pop();
  return { record, job, logs };
}

const SMALL = [
  "model.depth=1",
  "model.width=32",
  "model.text_width=16",
  `layout={dp_replicate: 1, dp_shard: 2, sp: ${SLOTS / 2}}`,
  `train={steps: ${STEPS}, packs_per_step: 2, tokens_per_pack: 96}`,
  `checkpoint.every_steps=${MIDDLE}`,
  "recovery.stall_seconds=60",
];

async function assertSameState(found: string, wanted: string): Promise<void> {
  const [a, b] = [await openCheckpoint(found), await openCheckpoint(wanted)];
  assert.equal(a.meta.adamStep, b.meta.adamStep);
  for (const { name } of a.specs) {
    for (const kind of STATE_KINDS) {
      const tensor = `${kind}/${name}`;
      const [left, right] = [await a.readTensor(tensor), await b.readTensor(tensor)];
      assert.ok(Buffer.from(left.buffer).equals(Buffer.from(right.buffer)), `${tensor} differs`);
    }
  }
}

/** What nothing disturbs; the others must equal it. */
let undisturbed: Promise<Run> | null = null;
function reference(): Promise<Run> {
  undisturbed ??= run({ overrides: ["device=cuda"] });
  return undisturbed;
}

test("a job on cuda trains every step in one generation", LIMIT, async () => {
  const { record, logs } = await reference();
  assert.equal(record.losses.size, STEPS);
  assert.ok(logs.includes(`generation 1 as ${LAYOUT} on cuda`));
  if (nccl !== null) assert.ok(nccl.done > 0, "nothing went over NCCL");
});

test(
  "device auto takes cuda; a killed rank's successor goes on from memory: same losses, same bits",
  LIMIT,
  async () => {
    const wanted = await reference();
    const found = await run({ overrides: ["device=auto"], failpoints: "backward.block@3/1:kill" });
    assert.deepEqual(found.record.losses, wanted.record.losses);
    assert.equal(new Set(found.record.steps.map(({ generation }) => generation)).size, 2);
    assert.ok(found.logs.includes(`generation 2 as ${LAYOUT} on cuda`));
    await assertSameState(found.job.checkpoint.uri, wanted.job.checkpoint.uri);
  },
);

test(
  "a checkpoint of cuda is resumed on cuda: the bits of the run that it was taken from",
  LIMIT,
  async () => {
    const wanted = await reference();
    const found = await run({ overrides: ["device=cuda"], resumeUri: middleOf(wanted) });
    assert.deepEqual([...found.record.losses.keys()], [STEPS]);
    await assertSameState(found.job.checkpoint.uri, wanted.job.checkpoint.uri);
  },
);

/** A step that is voted down changes nothing but its number, so what was read is what is written. */
test(
  "a checkpoint of cuda is resumed on cpu, and that one on cuda: each holds the same bits",
  LIMIT,
  async () => {
    const middle = middleOf(await reference());
    const moved = async (device: string, resumeUri: string, step: number) => {
      const overrides = [`device=${device}`, `train.steps=${step}`, `checkpoint.every_steps=${step}`];
      const { job, record, logs } = await run({
        overrides,
        failpoints: `forward.block@${step}/0:poison`,
        resumeUri,
      });
      assert.deepEqual(
        record.steps.map(({ applied }) => applied),
        [false],
      );
      assert.equal(/on cuda/.test(logs), device === "cuda");
      return job.checkpoint.uri;
    };
    const onCpu = await moved("cpu", middle, MIDDLE + 1);
    await assertSameState(onCpu, middle);
    const back = await moved("cuda", onCpu, MIDDLE + 2);
    await assertSameState(back, middle);
  },
);

function middleOf({ job }: Run): string {
  return `${job.checkpoint.uri}/checkpoint-${MIDDLE}`;
}

test("a job computes the same on cuda and on cpu, to rounding", LIMIT, async () => {
  const wanted = await reference();
  const { record } = await run({ overrides: ["device=cpu"] });
  for (const [step, loss] of wanted.record.losses) {
    const other = record.losses.get(step)!;
    assert.ok(Math.abs(other - loss) <= 1e-5 * loss, `step ${step}: ${other} on cpu, ${loss} on cuda`);
  }
});
