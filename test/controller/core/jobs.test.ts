import assert from "node:assert/strict";
import { test } from "node:test";
import type { Reply } from "../../../controller/core/contract.js";
import { jobViews, nodeViews } from "../../../controller/core/views.js";
import { CoreHarness, jobOf, page } from "./harness.js";

const TWO = { dp_replicate: 1, dp_shard: 2, sp: 1 };

function ready(nodes: number): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (let i = 0; i < nodes; i++) core.hello(`n${i}`);
  return core;
}
function replyTo(core: CoreHarness, requestId: string): Reply {
  const effect = core.effects.findLast((e) => e.kind === "reply" && e.requestId === requestId);
  assert.ok(effect?.kind === "reply", `no reply to ${requestId}`);
  return effect.result;
}
const finished = (rank: number, step: bigint, reason: "steps" | "stop") =>
  ({
    $case: "rankFinished",
    value: { generation: 1n, rank, state: { generation: 1n, step }, reason },
  }) as const;
const committed = (step: bigint) =>
  ({
    $case: "checkpointCommitted",
    value: {
      generation: 1n,
      state: { generation: 1n, step },
      uri: `file:///c/${step}`,
      bytes: 1n,
      seconds: 1,
    },
  }) as const;

test("jobs wait in order of submission, and a small one may pass a big one", () => {
  const core = ready(1);
  core.submit(jobOf({ name: "big", layout: { dp_replicate: 1, dp_shard: 4, sp: 1 } }), "job-big");
  core.submit(jobOf({ name: "small", layout: TWO }), "job-small");
  const [big, small] = jobViews(core.state, core.nowMs);
  assert.deepEqual([big!.phase, small!.phase], ["QUEUED", "FORMING"]);
  assert.match(big!.reason, /= 4 ranks: 0 slots free on 0 nodes, 2 more serve other jobs/);
});

test("a node serves one job at a time, and is free again when it says so", () => {
  const core = ready(1);
  core.submit(jobOf({ name: "first", layout: TWO }), "job-a");
  core.submit(jobOf({ name: "second", layout: TWO }), "job-b");
  core.form();
  core.say("n0", committed(100n));
  core.say("n0", finished(0, 100n, "steps"));
  core.say("n0", finished(1, 100n, "steps"));
  assert.equal(core.job.record.outcome?.phase, "COMPLETED");
  assert.equal(core.state.jobs.get("job-b")?.stage, "queued");
  core.say("n0", { $case: "nodeReleased", value: { jobId: "job-a" } });
  assert.equal(core.state.jobs.get("job-b")?.stage, "forming");
});

test("submitting the very same again returns the first; another of that name or place is refused", () => {
  const core = ready(1);
  core.submit(jobOf(), "job-1");
  core.submit(jobOf(), "job-2");
  assert.deepEqual(replyTo(core, "submit-job-2"), { ok: true, jobId: "job-1" });
  core.submit(jobOf({ steps: 7 }), "job-3");
  const name = replyTo(core, "submit-job-3");
  assert.ok(!name.ok && name.code === "CONFLICT" && /another job of that name/.test(name.message));
  core.submit({ ...jobOf({ name: "other" }), checkpoint: jobOf().checkpoint }, "job-4");
  const place = replyTo(core, "submit-job-4");
  assert.ok(
    !place.ok &&
      /job shapes writes to file:\/\/\/runs\/shapes, choose another checkpoint\.uri/.test(place.message),
  );
  assert.equal(core.state.jobs.size, 1);
});

test("a folder that holds another run is refused, to a new job and to one that resumes from elsewhere", () => {
  const core = ready(1);
  const found = { count: 3, generationHighest: 4, own: false };
  for (const source of [null, { uri: "file:///elsewhere/checkpoint-7", state: { generation: 1, step: 7 } }]) {
    core.feed({ kind: "jobSubmitted", requestId: "r", jobId: "job-1", job: jobOf(), source, found });
    const result = replyTo(core, "r");
    assert.ok(!result.ok && result.code === "CONFLICT");
    assert.match(
      result.message,
      /holds 3 checkpoints of another run, continue that one with gokuctl resume --ckpt/,
    );
  }
  assert.equal(core.state.jobs.size, 0);
});

test("an impossible layout is refused with the arithmetic", () => {
  const core = ready(1);
  core.submit({ ...jobOf(), layout: { dp_replicate: 1, dp_shard: 0, sp: 1 } });
  const result = replyTo(core, "submit-job-1");
  assert.ok(!result.ok && result.code === "LAYOUT_INVALID");
  assert.match(result.ok ? "" : result.message, /layout\.dp_shard is 0/);
});

test("a stop saves first, is durable, and reaches a generation that forms only later", () => {
  const core = ready(1);
  core.submit(jobOf({ layout: TWO }));
  core.feed({ kind: "stopRequested", requestId: "stop", jobId: "job-1", graceMs: null });
  assert.deepEqual(replyTo(core, "stop"), { ok: true, jobId: "job-1" });
  assert.equal(jobViews(core.state, core.nowMs)[0]?.phase, "STOPPING");
  core.take();
  core.form();
  assert.equal(core.commands().at(-1), "n0 requestStop");
  core.say("n0", finished(0, 12n, "stop"));
  core.say("n0", finished(1, 12n, "stop"));
  assert.equal(core.job.stage, "running", "the commit has not been told yet");
  core.say("n0", committed(12n));
  assert.deepEqual([core.job.record.outcome?.phase, core.job.record.outcome?.step], ["STOPPED", 12]);
});

test("a queued job stops at once", () => {
  const core = ready(1);
  core.submit(jobOf({ name: "runs", layout: TWO }), "job-a");
  core.submit(jobOf({ name: "waits", layout: TWO }), "job-b");
  core.feed({ kind: "stopRequested", requestId: "b", jobId: "job-b", graceMs: null });
  assert.equal(core.state.jobs.get("job-b")?.record.outcome?.phase, "STOPPED");
});

test("a save is passed on only while the job trains", () => {
  const core = ready(1);
  core.submit(jobOf({ layout: TWO }));
  core.feed({ kind: "saveRequested", requestId: "early", jobId: "job-1" });
  const early = replyTo(core, "early");
  assert.ok(!early.ok && early.code === "STATE_INVALID");
  core.form();
  core.feed({ kind: "saveRequested", requestId: "save", jobId: "job-1" });
  assert.equal(core.commands().at(-1), "n0 requestSave");
  core.feed({ kind: "saveRequested", requestId: "none", jobId: "job-9" });
  const none = replyTo(core, "none");
  assert.ok(!none.ok && none.code === "NOT_FOUND");
});

test("a rank that dies after the final state is durable does not undo the end", () => {
  const core = ready(1);
  core.submit(jobOf({ layout: TWO }));
  core.form();
  core.say("n0", committed(100n));
  core.say("n0", finished(0, 100n, "steps"));
  core.exited("n0", 1);
  assert.deepEqual([core.job.record.outcome?.phase, core.job.incidents.length], ["COMPLETED", 0]);
});

test("a stopped job ended at the step that is durable, also where some ranks had voted on a later one", () => {
  const core = ready(1);
  core.submit(jobOf({ layout: TWO }));
  core.form();
  core.stepDone("n0", 4);
  core.feed({ kind: "stopRequested", requestId: "stop", jobId: "job-1", graceMs: null });
  core.heartbeat("n0", 1, [page(0, { step: 5n }), page(1, { step: 4n })]);
  core.say("n0", committed(4n));
  for (const rank of [0, 1]) core.say("n0", finished(rank, 4n, "stop"));
  const { outcome } = core.job.record;
  assert.deepEqual([outcome?.phase, outcome?.step], ["STOPPED", 4]);
});

test("the register keeps as many checkpoints as the job, and names the newest by state", () => {
  const core = ready(1);
  core.submit(jobOf({ layout: TWO }));
  core.form();
  for (const step of [30n, 10n, 20n, 40n, 40n]) core.say("n0", committed(step));
  assert.deepEqual(
    jobViews(core.state, core.nowMs)[0]?.checkpoints.map((c) => c.state.step),
    [20, 30, 40],
  );
});

test("generation numbers rise over all jobs, and above every state that a job resumes from", () => {
  const core = ready(2);
  core.submit(jobOf({ name: "a", layout: TWO }), "job-a");
  const source = { uri: "file:///old", state: { generation: 40, step: 7 } };
  const found = { count: 3, generationHighest: 44, own: true };
  core.feed({
    kind: "jobSubmitted",
    requestId: "r",
    jobId: "job-b",
    job: jobOf({ name: "b", layout: TWO }),
    source,
    found,
  });
  const numbers = [...core.state.jobs.values()].map((job) => job.generation?.number);
  assert.deepEqual(numbers, [1, 45]);
});

test("a node that holds an unknown job is left alone, unused and explained", () => {
  const core = ready(0);
  core.hello("n0", { jobId: "stranger", generation: 3n, ranks: [page(0)] });
  core.submit(jobOf({ layout: TWO }));
  assert.deepEqual(core.commands(), ["n0 welcome"]);
  assert.match(
    nodeViews(core.state, core.nowMs)[0]!.unusable!,
    /holds job stranger, which this controller does not know/,
  );
});

test("a newer stream of a node takes over from the older, and from another process of it", () => {
  const core = ready(1);
  const old = core.sessions.get("n0")!;
  core.take();
  core.hello("n0", { incarnation: "n0#2" });
  assert.ok(
    core.effects.some((e) => e.kind === "refuse" && e.session === old.session && e.error.code === "CONFLICT"),
  );
  core.feed({ kind: "agentDisconnected", from: old, reason: "late" });
  assert.equal(core.state.nodes.get("n0")?.session, core.sessions.get("n0")!.session);
});
