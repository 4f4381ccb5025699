import assert from "node:assert/strict";
import { test } from "node:test";
import type { FoundCheckpoint } from "../../../controller/core/contract.js";
import { CoreHarness, FOUR, jobOf } from "./harness.js";

const committed = (generation: number, step: number): FoundCheckpoint => ({
  uri: `file:///runs/shapes/checkpoint-${step}`,
  state: { generation, step },
  bytes: 7,
  committedAtMs: 5,
});
const asked = (core: CoreHarness) => core.effects.filter(({ kind }) => kind === "findCheckpoints");
const registered = (core: CoreHarness) => core.job.checkpoints.map(({ state }) => state);

/** A job that has told step 10 durable, and lost its ranks: generation 2 forms. */
function recovering(there: CoreHarness["committed"], job = jobOf({ layout: FOUR })): CoreHarness {
  const core = CoreHarness.running(["n0", "n1"], job);
  core.stepDone("n0", 1);
  core.saved("n0", { generation: 1, step: 10 });
  core.committed = there;
  core.exited("n0", 0);
  core.pass(100);
  assert.equal(core.job.generation!.number, 2);
  core.take();
  return core;
}

/** Every rank of the forming generation is ready, holding `held`, and connected. */
function connect(core: CoreHarness, held: { generation: number; step: number }[] = []): void {
  const { number, rankNodes } = core.job.generation!;
  const generation = BigInt(number);
  const heldStates = held.map((state) => ({
    generation: BigInt(state.generation),
    step: BigInt(state.step),
  }));
  for (const [rank, nodeId] of rankNodes.entries())
    core.say(nodeId, { $case: "rankReady", value: { generation, rank, pid: 1, port: 1, heldStates } });
  for (const [rank, nodeId] of rankNodes.entries())
    core.say(nodeId, { $case: "rankConnected", value: { generation, rank } });
}

test("a commit that no agent has told is found where memory is gone, written down and restored", () => {
  const core = recovering([committed(1, 10), committed(1, 20)]);
  connect(core);
  assert.deepEqual(asked(core), [
    {
      kind: "findCheckpoints",
      jobId: "job-1",
      generation: 2,
      uri: "file:///runs/shapes",
      known: [committed(1, 10)].map(({ uri, state }) => ({ uri, state })),
    },
  ]);
  assert.equal(core.job.generation!.stage, "restore");
  assert.match(core.job.reason, /checkpoint-20 \(step 20 of generation 1\)/);
  const record = core.store.get("checkpoints/job-1")!.record;
  assert.ok(record.kind === "checkpoints");
  assert.deepEqual(
    record.entries.map(({ state }) => state.step),
    [10, 20],
  );
});

test("a job of which no commit was ever told does not begin anew where one is there", () => {
  const core = CoreHarness.running(["n0", "n1"], jobOf({ layout: FOUR }));
  core.committed = [committed(1, 20)];
  core.exited("n0", 0);
  core.pass(100);
  connect(core);
  assert.match(core.job.reason, /restores from checkpoint .*checkpoint-20/);
});

test("what is known and not in storage any more is struck from the register, and not gone back to", () => {
  const core = recovering([committed(1, 20)]);
  core.saved("n0", { generation: 1, step: 30 });
  core.gone = [{ uri: core.job.checkpoints.at(-1)!.uri, state: { generation: 1, step: 30 } }];
  connect(core);
  assert.match(core.job.reason, /checkpoint-20 /);
  assert.deepEqual(registered(core).at(-1), { generation: 1, step: 20 });
});

test("storage is not asked by the first generation of a job, nor where memory serves", () => {
  const first = CoreHarness.running(["n0", "n1"], jobOf({ layout: FOUR }));
  assert.deepEqual(asked(first), []);
  const core = recovering([committed(1, 20)]);
  connect(core, [{ generation: 1, step: 12 }]);
  assert.deepEqual(asked(core), []);
  assert.match(core.job.reason, /restores from memory, step 12/);
});

test("checkpoints of an older run in the folder, and of steps that a roll-back has undone, are none to go on from", () => {
  const core = recovering([committed(1, 20), committed(0, 30)]);
  core.job.record = { ...core.job.record, rollBacks: [{ generation: 1, first: 15, last: 16 }] };
  connect(core);
  assert.match(core.job.reason, /checkpoint-10 /);
  assert.deepEqual(registered(core), [
    { generation: 1, step: 10 },
    { generation: 1, step: 20 },
  ]);
});

test("a storage that cannot be listed is asked again, and the ranks wait", () => {
  const core = recovering(null);
  connect(core);
  core.beat(3_000);
  assert.ok(asked(core).length > 1);
  assert.equal(core.job.generation!.stage, "connect");
  core.committed = [committed(1, 20)];
  core.beat(4_000);
  assert.match(core.job.reason, /checkpoint-20/);
});

test("a storage that does not answer in time is not waited for: what was told serves; its answer counts all the same", () => {
  const core = recovering("silent");
  connect(core);
  core.beat(9_000);
  assert.equal(core.job.generation!.stage, "connect");
  core.beat(3_000);
  assert.match(core.job.reason, /checkpoint-10 /);
  const found = [committed(1, 20)];
  core.feed({ kind: "checkpointsFound", jobId: "job-1", generation: 2, found, gone: [], reason: "" });
  assert.match(core.job.reason, /checkpoint-10 /, "all ranks restore what they were told");
  assert.deepEqual(registered(core).at(-1), { generation: 1, step: 20 });
});

test("where no commit was ever told, the storage is waited for longer before the job begins anew", () => {
  const core = CoreHarness.running(["n0", "n1"], jobOf({ layout: FOUR }));
  core.committed = "silent";
  core.exited("n0", 0);
  core.pass(100);
  connect(core);
  core.beat(20_000);
  assert.equal(core.job.generation!.stage, "connect");
  core.beat(15_000);
  assert.equal(core.job.generation!.stage, "restore");
});

test("an answer to an older generation does not move the present one", () => {
  const core = recovering("silent");
  connect(core);
  core.exited("n1", 2);
  core.pass(2_000);
  connect(core);
  assert.equal(core.job.generation!.number, 3);
  core.feed({ kind: "checkpointsFound", jobId: "job-1", generation: 2, found: [], gone: [], reason: "" });
  assert.equal(core.job.generation!.stage, "connect");
});

/** Its ranks hang or are gone with their nodes, step 10 was told durable, and it is to stop. */
function stopping(there: CoreHarness["committed"]): CoreHarness {
  const core = CoreHarness.running(["n0", "n1"], jobOf({ layout: FOUR }));
  core.stepDone("n0", 1);
  core.saved("n0", { generation: 1, step: 10 });
  core.committed = there;
  core.feed({ kind: "stopRequested", requestId: "stop", jobId: "job-1", graceMs: null });
  core.exited("n0", 0);
  for (const nodeId of ["n0", "n1"]) core.disconnect(nodeId);
  core.pass(100);
  return core;
}
const outcome = ({ job }: CoreHarness) => job.record.outcome;

test("a job that is to stop and cannot save ends at what storage has, not at what was told of it", () => {
  const core = stopping([committed(1, 10), committed(1, 20)]);
  assert.deepEqual([outcome(core)?.phase, outcome(core)?.step], ["STOPPED", 20]);
  assert.match(outcome(core)!.reason, /step 20 is durable at file:.*checkpoint-20/);
});

test("a storage that does not answer is asked again, and holds the end of a job up for 10 s at most", () => {
  const core = stopping(null);
  core.pass(2_000);
  assert.equal(core.job.stage, "waiting");
  assert.match(core.job.reason, /looks what is committed in file:/);
  core.committed = [committed(1, 20)];
  core.pass(2_000);
  assert.equal(outcome(core)?.step, 20);

  const silent = stopping("silent");
  silent.pass(9_000);
  assert.equal(outcome(silent), null);
  silent.pass(2_000);
  assert.equal(outcome(silent)?.step, 10);
});

test("what storage tells after a fault came in between changes nothing but the register", () => {
  const core = recovering("silent");
  connect(core);
  core.exited("n1", 2);
  assert.equal(core.job.stage, "settling");
  core.feed({
    kind: "checkpointsFound",
    jobId: "job-1",
    generation: 2,
    found: [committed(1, 20)],
    gone: [],
    reason: "",
  });
  assert.equal(core.job.stage, "settling");
  assert.deepEqual(registered(core).at(-1), { generation: 1, step: 20 });
});
