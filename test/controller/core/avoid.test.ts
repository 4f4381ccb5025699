import assert from "node:assert/strict";
import { test } from "node:test";
import { jobView, nodeViews } from "../../../controller/core/views.js";
import { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness } from "./harness.js";

const HOUR_MS = 3_600_000;

/** A job on n0 and n1 that avoids n1, since rank 2 there computed a step wrong; no other node is free. */
function avoiding(): CoreHarness {
  const core = CoreHarness.running(["n0", "n1"]);
  core.take();
  const replay = {
    packs: [0],
    lossRanks: [2],
    normRanks: [],
    homeRanks: [],
    loss: undefined,
    gradient: undefined,
  };
  const value = StepCompleted.fromPartial({ generation: 1n, step: 1n, loss: 1, applied: true, replay });
  core.say("n0", { $case: "stepCompleted", value: { ...value, replay } });
  return core;
}
const texts = (core: CoreHarness) =>
  core.effects.flatMap((effect) =>
    effect.kind === "log" && effect.entry.type === "node" ? [effect.entry.text] : [],
  );

test("a node that a job avoids is shown as such by the job and by the node, with reason and end", () => {
  const core = avoiding();
  const reason = "rank 2 on n1 computed step 1 wrong";
  const want = [{ job: "shapes", nodeId: "n1", reason, untilMs: core.nowMs + HOUR_MS }];
  assert.deepEqual(jobView(core.state, "job-1", core.nowMs)!.avoided, want);
  const [n0, n1] = nodeViews(core.state, core.nowMs);
  assert.deepEqual([n0!.avoided, n1!.avoided], [[], want]);
});

test("an avoided node is as good as any other after an hour, and that is told once", () => {
  const core = avoiding();
  const pages = () => [];
  core.beat(HOUR_MS - 2_000, pages);
  assert.deepEqual([...core.job.avoided.keys()], ["n1"]);
  core.beat(4_000, pages);
  assert.deepEqual(texts(core), [
    "n1 is avoided by job shapes no more (rank 2 on n1 computed step 1 wrong): its time is over",
  ]);
  assert.deepEqual(nodeViews(core.state, core.nowMs)[1]!.avoided, []);
});

test("a person releases an avoided node; one that is neither avoided nor quarantined is refused", () => {
  const core = avoiding();
  for (const requestId of ["first", "second"])
    core.feed({ kind: "quarantineLifted", requestId, nodeId: "n1" });
  const replies = core.effects.flatMap((effect) => (effect.kind === "reply" ? [effect.result] : []));
  assert.equal(replies[0]!.ok, true);
  assert.deepEqual(replies[1], {
    ok: false,
    code: "NOT_FOUND",
    message: "Cannot lift the quarantine of node n1: it is not quarantined, and no job avoids it",
  });
  assert.match(texts(core)[0]!, /: a person released it$/);
});

test("a job that is over avoids nobody", () => {
  const core = avoiding();
  core.finished("n0", 0, 100, "steps");
  core.pass(60_000);
  assert.equal(core.job.record.outcome?.phase, "COMPLETED");
  assert.deepEqual(nodeViews(core.state, core.nowMs)[1]!.avoided, []);
});
