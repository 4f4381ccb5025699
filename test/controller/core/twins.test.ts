import assert from "node:assert/strict";
import { test } from "node:test";
import { TwinsDiffer } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness, jobOf } from "./harness.js";

/** Two replicas of two ranks, on a node each. */
function running(): CoreHarness {
  const core = CoreHarness.running(["n0", "n1"], jobOf({ layout: { dp_replicate: 2, dp_shard: 2, sp: 1 } }));
  for (let step = 1; step <= 130; step++) core.stepDone("n0", step);
  core.take();
  return core;
}
function differ(core: CoreHarness, more: Partial<TwinsDiffer> = {}): void {
  const generation = BigInt(core.job.generation!.number);
  const value = TwinsDiffer.fromPartial({
    ...{ generation, rank: 0, state: { generation, step: 128n }, ranks: [0, 2] },
    ...{ tensor: "model/blocks.0.attn.qkv", start: 512n, length: 1024n, chunks: 3, equalStep: 64n },
    ...more,
  });
  core.say("n0", { $case: "twinsDiffer", value });
}
const alarms = (core: CoreHarness) =>
  core.effects.flatMap((e) => (e.kind === "log" && e.entry.level === "alarm" ? [e.entry.text] : []));

test("twins that differ: an alarm names both ranks and nodes, the tensor and since when, once; training goes on", () => {
  const core = running();
  differ(core);
  differ(core);
  assert.deepEqual(alarms(core), [
    "rank 0 on n0, rank 2 on n1 must hold the same bits and do not, in step 128 of generation 1: model/blocks.0.attn.qkv [512, 1536) and 2 more chunks of a MiB; which of them is right cannot be told from their states; at step 64 they were the same; training goes on; drain and diagnose n0 and n1; to be rid of it stop the job and resume from a checkpoint of step 64 of generation 1 or before",
  ]);
  assert.equal(
    core.effects.filter((e) => e.kind === "observe" && e.metric === "goku_twins_differ_total").length,
    1,
  );
  assert.equal(core.job.stage, "running");
});

test("twins that differ: where most contradict one, that one's node is named", () => {
  const core = running();
  differ(core, { oddRanks: [2] });
  assert.match(alarms(core).join(), /most contradict rank 2 on n1.*drain and diagnose n1;/);
});

test("twins that differ: what a later generation tells, which had compared nothing before, does not end or narrow the doubt", () => {
  const core = running();
  differ(core);
  for (const generation of [2, 3]) {
    core.exited("n1", 2);
    core.failed("n0", 0, "COMM_PEER_DIED", 2);
    core.pass(2_000);
    core.take();
    core.form([{ generation: 1, step: 130 }]);
    assert.match(alarms(core).join(), /restores step 130 of generation 1, which is in doubt/);
    const state = { generation: BigInt(generation), step: 192n };
    differ(core, { state, equalStep: undefined });
    assert.match(alarms(core).at(-1)!, /a checkpoint of step 64 of generation 1 or before$/);
  }
});

test("twins that differ: with no comparison before, no checkpoint is called safe", () => {
  const core = running();
  differ(core, { equalStep: undefined });
  assert.match(
    alarms(core).join(),
    /from a checkpoint from before it began, which no comparison tells: the older, the safer$/,
  );
});

test("twins that differ: a restore of such a state is told as one in doubt, one of a state before ends the doubt", () => {
  for (const { step, told } of [
    { step: 130, told: true },
    { step: 64, told: false },
  ]) {
    const core = running();
    differ(core);
    core.exited("n1", 2);
    core.failed("n0", 0, "COMM_PEER_DIED", 2);
    core.pass(2_000);
    core.take();
    core.form([{ generation: 1, step }]);
    assert.equal(/restores step 130 of generation 1, which is in doubt/.test(alarms(core).join()), told);
    assert.equal(core.job.doubt !== null, told);
  }
});
