import assert from "node:assert/strict";
import { test } from "node:test";
import { StepCompleted, type StepReplay } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness, FOUR, jobOf, programJobOf } from "./harness.js";

/** Of a replay: it was not for a spike. */
const NOT_FINITE = { loss: undefined, gradient: undefined };

/** Four ranks on n0 and n1; n2 is free unless `nodes` says otherwise. */
function running(nodes = ["n0", "n1", "n2"]): CoreHarness {
  const core = CoreHarness.running(nodes);
  core.take();
  return core;
}

function tell(
  core: CoreHarness,
  step: number,
  more: { loss?: number; applied?: boolean; replay?: StepReplay; generation?: bigint } = {},
): void {
  const { loss = 1, applied = true, replay, generation = BigInt(core.job.generation!.number) } = more;
  const value = StepCompleted.fromPartial({
    generation,
    step: BigInt(step),
    loss,
    gradNorm: 1,
    applied,
    stepSeconds: 0.5,
  });
  core.say(core.job.generation!.rankNodes[0]!, { $case: "stepCompleted", value: { ...value, replay } });
}
const events = (core: CoreHarness) =>
  core.effects.flatMap((e) =>
    e.kind === "log" && e.entry.type === "numbers" ? [`${e.entry.level}: ${e.entry.text}`] : [],
  );
const counted = (core: CoreHarness) =>
  core.effects.flatMap((e) =>
    e.kind === "observe" && e.metric === "goku_bad_steps_total" ? [e.labels.kind] : [],
  );
const WRONG_ON_N1 = { packs: [0], lossRanks: [2], normRanks: [0, 1, 2, 3], homeRanks: [], ...NOT_FINITE };

test("a step whose data is bad is told with its packs and counted, and the job goes on", () => {
  const core = running();
  tell(core, 1);
  tell(core, 2, {
    loss: Number.NaN,
    applied: false,
    replay: { packs: [1], lossRanks: [], normRanks: [], homeRanks: [], ...NOT_FINITE },
  });
  assert.deepEqual(events(core), [
    "warning: step 2 was not finite (pack 1), and the same again when computed a second time: data or weights make it so; voted down, no weight changed",
  ]);
  assert.deepEqual(counted(core), ["data"]);
  assert.equal(core.job.incident, null);
});

test("a rank that computed wrong once is an alarm, and its node's ranks go to a free one", () => {
  const core = running();
  tell(core, 1, { replay: WRONG_ON_N1 });
  assert.match(
    events(core)[0]!,
    /^alarm: step 1 was not finite \(pack 0\), and other losses of rank 2 .*a device of n1/,
  );
  assert.deepEqual(core.commands(), ["n0 requestStop", "n1 requestStop"]);
  core.ended(2);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0", "n2", "n2"]);
  core.form();
  tell(core, 3);
  const [incident] = core.job.incidents;
  assert.deepEqual(
    [incident!.code, incident!.what, incident!.rank, incident!.outcome, incident!.stepsLost],
    ["RANK_CORRUPT", "rank 2 on n1 computed step 1 wrong", 2, "recovered", 0],
  );
});

test("a node that computed wrong is examined when its ranks have left, and no other job gets it before it passes", () => {
  const core = new CoreHarness({ selfCheckMs: 300 });
  core.lead();
  const pass = (nodeId: string) => {
    const asked = core.effects.findLast(
      (e) => e.kind === "send" && e.nodeId === nodeId && e.message.$case === "selfCheck",
    );
    assert.ok(asked?.kind === "send" && asked.message.$case === "selfCheck", `${nodeId} was not asked`);
    const { checkId } = asked.message.value;
    core.say(nodeId, { $case: "selfCheckReport", value: { checkId, results: [], busy: "" } });
  };
  for (const nodeId of ["n0", "n1", "n2"]) {
    core.hello(nodeId);
    pass(nodeId);
  }
  core.submit(jobOf({ layout: FOUR }));
  core.pass(2_000);
  core.form();
  tell(core, 1, { replay: WRONG_ON_N1 });
  core.ended(2);
  core.form();
  tell(core, 3);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0", "n2", "n2"]);
  core.submit(jobOf({ name: "other" }), "job-2");
  core.take();
  core.say("n1", { $case: "nodeReleased", value: { jobId: "job-1" } });
  const { health, jobs } = core.state;
  assert.deepEqual(core.commands(), ["n1 selfCheck"]);
  assert.equal(health.get("n1")!.why, "rank 2 on n1 computed step 1 wrong");
  core.pass(1_000);
  assert.equal(jobs.get("job-2")!.stage, "queued");
  pass("n1");
  core.pass(1_000);
  assert.deepEqual(jobs.get("job-2")!.generation?.rankNodes, ["n1", "n1"]);
});

test("with no free node it is avoided from the next generation on", () => {
  const core = running(["n0", "n1"]);
  tell(core, 1, { replay: WRONG_ON_N1 });
  assert.match(events(core)[1]!, /no free node can take the ranks of n1 at present: it is avoided/);
  assert.deepEqual(core.commands(), []);
  core.hello("n2");
  core.exited("n0", 0);
  core.failed("n0", 1, "COMM_ABORTED");
  core.failed("n1", 2, "COMM_ABORTED");
  core.failed("n1", 3, "COMM_ABORTED");
  core.pass(1_000);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0", "n2", "n2"]);
});

test("a spike in what a program tells is told once, and a step that is told again tells nothing new", () => {
  const core = CoreHarness.running(["n0", "n1"], programJobOf({ layout: FOUR }));
  core.take();
  for (let step = 1; step <= 20; step++) tell(core, step);
  tell(core, 21, { loss: 8 });
  tell(core, 22);
  assert.deepEqual(events(core), [
    "warning: loss of step 21 is 8.000: a spike, above 3.000, the median of the last steps is 1.000",
    "info: loss of step 22 is 1.000: back after 1 step",
  ]);
  core.take();
  core.exited("n0", 0);
  core.pass(1_000);
  core.form();
  tell(core, 21, { loss: 8 });
  assert.deepEqual(events(core), []);
});

test("a spike that ranks have found is told once with its replay, and when it is over; each kind is counted", () => {
  const core = running();
  const begins = { value: 8, limit: 3, median: 1 };
  const same = { packs: [], lossRanks: [], normRanks: [], homeRanks: [] };
  tell(core, 1, { loss: 8, replay: { ...same, loss: begins, gradient: begins } });
  tell(core, 2, { loss: 7 });
  const value = StepCompleted.fromPartial({ generation: 1n, step: 3n, loss: 1, gradNorm: 1, applied: true });
  const lossSpike = { kind: { $case: "ends", value: 2 } } as const;
  core.say("n0", { $case: "stepCompleted", value: { ...value, replay: undefined, lossSpike } });
  const [first, ...more] = events(core);
  assert.match(
    first!,
    /^warning: step 1 had a loss of 8.000: .* and a gradient norm of 8.000: .*; applied all the same$/,
  );
  assert.deepEqual(more, ["info: loss of step 3 is 1.000: back after 2 steps"]);
  assert.deepEqual(counted(core), ["loss_spike", "gradient_spike"]);
});

test("steps that are left out are counted with the reason", () => {
  const core = running();
  for (const [i, leftOut] of ["spike", "not_finite", "roll_back", ""].entries()) {
    const value = StepCompleted.fromPartial({
      generation: 1n,
      step: BigInt(i + 1),
      leftOut,
      applied: leftOut === "",
    });
    core.say("n0", { $case: "stepCompleted", value: { ...value, replay: undefined } });
  }
  const left = core.effects.flatMap((e) =>
    e.kind === "observe" && e.metric === "goku_steps_left_out_total" ? [e.labels.reason] : [],
  );
  assert.deepEqual(left, ["spike", "not_finite"], "a roll-back was counted when it was decided");
});

test("a step told late, after a rank was lost, names the rank and node of the generation that computed it", () => {
  const core = running(["n0", "n1"]);
  tell(core, 1);
  const first = BigInt(core.job.generation!.number);
  core.exited("n0", 0);
  for (const [nodeId, rank] of [
    ["n0", 1],
    ["n1", 2],
    ["n1", 3],
  ] as const)
    core.failed(nodeId, rank, "COMM_ABORTED");
  core.pass(1_000);
  assert.equal(core.job.stage, "forming");
  core.take();
  tell(core, 2, { replay: WRONG_ON_N1, generation: first });
  assert.match(
    events(core)[0]!,
    /^alarm: step 2 .* other losses of rank 2 .*: hardware was wrong, a device of n1/,
  );
  assert.deepEqual([...core.job.avoided.keys()], ["n1"]);
});

const ALWAYS_WRONG_ON_N1 = { packs: [1], lossRanks: [], normRanks: [], homeRanks: [2, 3], ...NOT_FINITE };
const ALL_THE_SAME = { packs: [1], lossRanks: [], normRanks: [], homeRanks: [], ...NOT_FINITE };

/** Steps as bad as the trainer allows, then its end, told by all ranks. */
function notFinite(core: CoreHarness, replay: StepReplay, from = 1): void {
  for (const step of [from, from + 1]) tell(core, step, { loss: Number.NaN, applied: false, replay });
  const { number, rankNodes } = core.job.generation!;
  core.saved(rankNodes[0]!, { generation: number, step: from + 1 });
  for (const [rank, nodeId] of rankNodes.entries()) core.failed(nodeId, rank, "NOT_FINITE");
  core.pass(2_000);
}
const outcome = (core: CoreHarness) =>
  core.job.record.outcome && [core.job.record.outcome.phase, core.job.record.outcome.code];

test("a device that is always wrong, and no node is free: its node is given up, and the job goes on when another one comes", () => {
  const core = running(["n0", "n1"]);
  notFinite(core, ALWAYS_WRONG_ON_N1);
  assert.equal(outcome(core), null);
  assert.match(
    core.state.quarantine.get("n1")!.reason,
    /^wrong in each of the last 2 steps: step 2 was not finite .* others find their packs finite/,
  );
  assert.deepEqual([core.job.incident!.code, core.job.incident!.nodeId], ["RANK_CORRUPT", "n1"]);
  assert.match(core.job.reason, /n1 is given up/);
  core.hello("n2");
  core.pass(1_000);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0", "n2", "n2"]);
});

test("a device that is always wrong, and no node comes: the job fails for that, not for its data", () => {
  const core = running(["n0", "n1"]);
  notFinite(core, ALWAYS_WRONG_ON_N1);
  core.pass(3_600_000);
  assert.deepEqual(outcome(core), ["FAILED", "RANK_CORRUPT"]);
});

test("a device that is always wrong in a job with layout auto: it goes on smaller, without that node", () => {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId);
  core.submit(jobOf({ layout: "auto" }));
  core.pass(2_500);
  core.form();
  notFinite(core, ALWAYS_WRONG_ON_N1);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0"]);
});

test("wrong differently each time, on two nodes: hardware ends the job, though it is not told which", () => {
  const core = running(["n0", "n1"]);
  notFinite(core, { packs: [0], lossRanks: [1, 2], normRanks: [], homeRanks: [], ...NOT_FINITE });
  assert.deepEqual(outcome(core), ["FAILED", "RANK_CORRUPT"]);
});

test("other ranks find the same packs not finite: the job fails for its data or weights", () => {
  const core = running();
  notFinite(core, ALL_THE_SAME);
  assert.deepEqual(outcome(core), ["FAILED", "NOT_FINITE"]);
});

/** One sequence group on n0. */
function alone(nodes: string[]): CoreHarness {
  const core = CoreHarness.running(nodes, jobOf({ layout: { dp_replicate: 1, dp_shard: 1, sp: 2 } }));
  return core;
}

test("no other rank can compute the packs, and a node is free: it is tried there once; not finite there too, data or weights are it", () => {
  const core = alone(["n0", "n1"]);
  notFinite(core, ALL_THE_SAME);
  assert.equal(outcome(core), null);
  assert.deepEqual(core.job.generation!.rankNodes, ["n1", "n1"]);
  core.form();
  notFinite(core, ALL_THE_SAME, 3);
  assert.deepEqual(outcome(core), ["FAILED", "NOT_FINITE"]);
  assert.match(core.job.record.outcome!.reason, /not finite on n0 and on n1: data or weights make it so/);
});

test("no other rank can compute the packs, and no node is free: the job fails, saying what it cannot tell", () => {
  const core = alone(["n0"]);
  notFinite(core, ALL_THE_SAME);
  assert.deepEqual(outcome(core), ["FAILED", "NOT_FINITE"]);
  assert.match(
    core.job.record.outcome!.reason,
    /or a device of n0 is always wrong: no other node was free to compute it on/,
  );
});

test("other ranks tell the end of the job before rank 0's agent has told its last step: that is waited for", () => {
  const core = running(["n0", "n1"]);
  const bad = { loss: Number.NaN, applied: false, replay: ALWAYS_WRONG_ON_N1 };
  for (const rank of [2, 3]) core.failed("n1", rank, "NOT_FINITE");
  core.pass(500);
  assert.equal(core.job.stage, "settling");
  tell(core, 1, bad);
  for (const rank of [0, 1]) core.failed("n0", rank, "NOT_FINITE");
  core.pass(100);
  assert.equal(core.job.incident!.code, "RANK_CORRUPT");
});

test("no other rank can compute the packs, and they are finite on the next node: the first one is suspected, and avoided", () => {
  const core = alone(["n0", "n1"]);
  notFinite(core, ALL_THE_SAME);
  core.form();
  core.take();
  tell(core, 3);
  assert.deepEqual(events(core), [
    "alarm: steps are finite that were not on n0: a device there is suspected, it is avoided",
  ]);
  assert.deepEqual([...core.job.avoided.keys()], ["n0"]);
});
