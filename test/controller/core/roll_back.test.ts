import assert from "node:assert/strict";
import { test } from "node:test";
import { isGivenUp } from "../../../controller/core/roll_back.js";
import { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness } from "./harness.js";

const BEGINS = { value: 9, limit: 3, median: 1 };
const SAME_AGAIN = {
  packs: [],
  lossRanks: [],
  normRanks: [],
  homeRanks: [],
  loss: BEGINS,
  gradient: undefined,
};

/** Four ranks on n0 and n1 that have done steps 1 to 24, with checkpoints at 10 and 20. */
function trained(): CoreHarness {
  const core = CoreHarness.running(["n0", "n1"]);
  for (let step = 1; step <= 24; step++) {
    core.stepDone("n0", step);
    if (step % 10 === 0) core.saved("n0", { generation: 1, step });
  }
  core.take();
  return core;
}

/** Rank 0 tells a spike at which the run is rolled back, as far as it is told, and all end. */
function spike(
  core: CoreHarness,
  { first, last, told = true }: { first: number; last: number; told?: boolean },
): void {
  const { number, rankNodes } = core.job.generation!;
  const rollBack = { first: BigInt(first), last: BigInt(last) };
  const value = StepCompleted.fromPartial({
    generation: BigInt(number),
    step: BigInt(last),
    loss: 9,
    gradNorm: 1,
  });
  if (told)
    core.say(rankNodes[0]!, { $case: "stepCompleted", value: { ...value, replay: SAME_AGAIN, rollBack } });
  for (const [rank, nodeId] of rankNodes.entries()) core.failed(nodeId, rank, "ROLLED_BACK");
  core.pass(1_000);
}
const restored = (core: CoreHarness) => {
  const { source, rollBacks } = core.lastCommand("restore").value;
  const text = source?.$case === "checkpoint" ? `checkpoint ${source.value.state!.step}` : source?.$case;
  const state = source?.$case === "snapshot" ? source.value.state! : null;
  const steps = rollBacks.map(({ first, last }) => `${first}-${last}`).join(" ");
  return `${state === null ? text : `snapshot ${state.generation}-${state.step}`}, without ${steps}`;
};
/** What a rank has in memory of its last steps. */
const heldOf = (generation: number, step: number) =>
  [step, step - 1].map((each) => ({ generation, step: each }));

test("a roll-back restores the newest state before the steps that it undoes, and tells the ranks which not to compute", () => {
  const core = trained();
  spike(core, { first: 18, last: 25 });
  assert.equal(core.job.stage, "forming", "at once, and nobody is blamed");
  assert.equal(core.job.blame.size, 0);
  core.form(heldOf(1, 24));
  assert.equal(restored(core), "checkpoint 10, without 18-25");
  const { incident } = core.job;
  assert.deepEqual(
    [incident!.code, incident!.rank, incident!.nodeId, incident!.stepsLost],
    ["ROLLED_BACK", null, null, 15],
  );
  assert.match(
    incident!.what,
    /^step 25 had a loss of 9.000: a spike, above 3.000, the median .* data or weights make it so; no weight changed, the run goes back to step 17$/,
  );
  assert.ok(
    incident!.decisions.some(({ text }) => text === "go back to step 17: steps 18 to 25 are left out"),
  );
  const left = core.effects.filter((e) => e.kind === "observe" && e.metric === "goku_steps_left_out_total");
  assert.deepEqual(
    left.map((e) => e.kind === "observe" && [e.value, e.labels.reason]),
    [[8, "roll_back"]],
  );
});

test("a fault in the middle of a roll-back: what is undone stays undone, under a new leader as well", () => {
  const core = trained();
  spike(core, { first: 18, last: 25 });
  core.form(heldOf(1, 24));
  for (const step of [11, 12]) core.stepDone("n0", step);
  core.exited("n0", 0);
  core.pass(1_000);
  core.form([...heldOf(2, 12), ...heldOf(1, 24)]);
  assert.equal(restored(core), "snapshot 2-12, without 18-25");
  core.exited("n0", 0);
  core.lead("c1");
  assert.equal(core.job.record.rollBacks.length, 1);
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId, { jobId: "job-1", incarnation: `${nodeId}#2` });
  core.pass(3_000);
  core.form(heldOf(1, 24));
  assert.equal(restored(core), "checkpoint 10, without 18-25", "memory holds nothing else any more");
});

test("a checkpoint of undone steps that is committed late is none to go back to", () => {
  const core = trained();
  spike(core, { first: 18, last: 25 });
  core.saved("n0", { generation: 1, step: 24 });
  core.form();
  assert.equal(restored(core), "checkpoint 10, without 18-25");
  assert.deepEqual(
    core.job.checkpoints.map(({ state, unusable }) => [state.step, unusable === null]),
    [
      [10, true],
      [20, false],
      [24, false],
    ],
  );
});

test("once past what was undone, states of the new line count, and a second roll-back is told beside the first", () => {
  const core = trained();
  spike(core, { first: 18, last: 25 });
  core.form(heldOf(1, 24));
  for (let step = 11; step <= 26; step++) core.stepDone("n0", step);
  assert.equal(core.job.incident, null);
  core.saved("n0", { generation: 2, step: 20 });
  spike(core, { first: 12, last: 27 });
  core.form([...heldOf(2, 26), ...heldOf(1, 24)]);
  assert.equal(restored(core), "checkpoint 10, without 18-25 12-27");
});

test("a roll-back to before the first checkpoint begins with initial values", () => {
  const core = trained();
  spike(core, { first: 4, last: 25 });
  core.form(heldOf(1, 24));
  assert.equal(restored(core), "initial, without 4-25");
});

test("a roll-back asks storage first what is left: retention may have removed what agents tell again", () => {
  const core = trained();
  const [first] = core.job.checkpoints;
  core.gone = [{ uri: first!.uri, state: first!.state }];
  const { job } = core.job.record;
  assert.ok("checkpoint" in job);
  job.checkpoint.every_steps = 10;
  spike(core, { first: 18, last: 25 });
  core.form(heldOf(1, 24));
  assert.equal(
    restored(core),
    "checkpoint 20, without 21-25",
    "no further than that, instead of to initial values",
  );
});

test("a roll-back does not wait for a storage that is silent for longer than a listing may take", () => {
  const core = trained();
  core.committed = "silent";
  spike(core, { first: 18, last: 25 });
  core.beat(8_000);
  assert.equal(core.job.stage, "waiting");
  assert.match(core.job.reason, /looks what is committed in file:.*: the run goes back to what is left/);
  core.beat(4_000);
  core.committed = [];
  core.form(heldOf(1, 24));
  assert.equal(restored(core), "checkpoint 10, without 18-25");
});

test("a roll-back behind all that is left goes no further than that, and says so", () => {
  const core = trained();
  core.job.checkpoints.shift();
  const { job } = core.job.record;
  assert.ok("checkpoint" in job);
  job.checkpoint.every_steps = 10;
  spike(core, { first: 18, last: 25 });
  core.form(heldOf(1, 24));
  assert.equal(restored(core), "checkpoint 20, without 21-25");
  const texts = core.job.incident!.decisions.map(({ text }) => text);
  assert.ok(
    texts.includes(
      "go back to step 20, not to step 17, since no earlier state is left: steps 21 to 25 are left out",
    ),
  );
});

test("a roll-back whose step was not told goes on from the newest state: the ranks come to it again", () => {
  const core = trained();
  spike(core, { first: 18, last: 25, told: false });
  core.pass(3_000);
  core.form(heldOf(1, 24));
  assert.equal(restored(core), "snapshot 1-24, without ");
  spike(core, { first: 18, last: 25 });
  core.form(heldOf(2, 24));
  assert.equal(restored(core), "checkpoint 10, without 18-25");
});

test("steps that are not computed teach nothing about how long steps take", () => {
  const core = trained();
  spike(core, { first: 18, last: 25 });
  core.form(heldOf(1, 24));
  core.stepDone("n0", 11);
  const known = [...core.job.stepTimesMs];
  const value = StepCompleted.fromPartial({
    generation: 2n,
    step: 18n,
    stepSeconds: 0.001,
    leftOut: "roll_back",
  });
  core.take();
  core.say("n0", { $case: "stepCompleted", value: { ...value, replay: undefined } });
  assert.deepEqual(core.job.stepTimesMs, known);
  assert.deepEqual(
    core.effects.filter((e) => e.kind === "log"),
    [],
  );
});

test("isGivenUp() holds for the undone steps of that generation and older ones only", () => {
  const rollBacks = [{ generation: 3, first: 18, last: 25 }];
  const of = (generation: number, step: number) => isGivenUp(rollBacks, { generation, step });
  assert.deepEqual(
    [of(3, 17), of(3, 18), of(2, 40), of(4, 20), of(1, 10)],
    [false, true, true, false, false],
  );
});

test("a checkpoint of an older generation from behind the bad step is no way back to a step before it", () => {
  const core = CoreHarness.running(["n0", "n1"]);
  for (let step = 1; step <= 1_024; step++) core.stepDone("n0", step);
  core.saved("n0", { generation: 1, step: 1_030 });
  core.take();
  spike(core, { first: 1_018, last: 1_025 });
  const undone = core.job.record.rollBacks.map(({ first, last }) => ({ first, last }));
  assert.deepEqual(undone, [{ first: 1_018, last: 1_025 }]);
});
