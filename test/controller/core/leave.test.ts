import assert from "node:assert/strict";
import { test } from "node:test";
import { nodeViews, phaseOf } from "../../../controller/core/views.js";
import type { LayoutSize } from "../../../job/layout.js";
import { CoreHarness, FOUR, jobOf, page } from "./harness.js";

const AT_5 = { generation: 1, step: 5 };

/** Four ranks on n0 and n1, five steps done; n2 is free unless `nodes` says otherwise. */
function running(options: { nodes?: string[]; layout?: LayoutSize | "auto" } = {}): CoreHarness {
  const core = CoreHarness.running(options.nodes, jobOf({ layout: options.layout ?? FOUR }));
  for (let step = 1; step <= 5; step++) core.stepDone("n0", step);
  core.take();
  return core;
}

const hang = (core: CoreHarness, ms: number) =>
  core.beat(ms, (nodeId) => (core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) => page(rank)));
const decisions = (core: CoreHarness) => core.job.incidents.at(-1)!.decisions.map(({ text }) => text);

test("a member leaves: all are told to end at the next vote, the job goes on from that state without it", () => {
  const core = running();
  core.leaves("n1");
  assert.deepEqual(core.commands(), ["n0 requestStop", "n1 requestStop"]);
  core.stepDone("n0", 6);
  assert.equal(core.job.incident?.outcome, "open", "the step voted meanwhile ends no incident");
  core.take();
  core.ended(6);
  assert.equal(phaseOf(core.job), "RECOVERING");
  assert.equal(core.job.record.stop, null);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.deepEqual(core.commands(), ["n1 release", "n0 prepare", "n2 prepare"]);
  core.form();
  const { source } = core.lastCommand("restore").value;
  assert.ok(source?.$case === "checkpoint" && source.value.uri.endsWith("checkpoint-6"), source?.$case);
  core.stepDone("n0", 7);
  const incident = core.job.incidents[0]!;
  assert.deepEqual(
    [incident.outcome, incident.code, incident.what, incident.nodeId, incident.stepsLost],
    ["recovered", "NODE_PREEMPTED", "n1 leaves, asked to by SIGTERM", "n1", 0],
  );
  assert.deepEqual(incident.decisions.map(({ text }) => text).slice(0, 3), [
    "save at the next step, then go on without n1, which is gone in 30.0 s",
    "step 6 of generation 1 is durable: go on from it without n1",
    "form generation 2 as 1x2x2: n1 is given up (it leaves: SIGTERM): others take over",
  ]);
});

/** What a leaving member means to the job, by what else there is. */
const CASES: {
  name: string;
  nodes?: string[];
  layout?: LayoutSize | "auto";
  next?: (core: CoreHarness) => void;
  want: { stage: string; rankNodes?: string[]; reason: RegExp };
}[] = [
  {
    name: "nothing is free and the layout is free to choose: it shrinks",
    nodes: ["n0", "n1"],
    layout: "auto",
    want: { stage: "forming", rankNodes: ["n0", "n0"], reason: /without|given up/ },
  },
  {
    name: "nothing is free and the layout is fixed: it waits for nodes",
    nodes: ["n0", "n1"],
    want: {
      stage: "waiting",
      reason: /n1 is given up \(it leaves: SIGTERM\); layout 1x2x2 needs .* 2 slots free/,
    },
  },
  {
    name: "it comes back as another process: it is used again",
    nodes: ["n0", "n1"],
    next: (core) => {
      core.disconnect("n1");
      core.hello("n1", { incarnation: "n1#2" });
    },
    want: { stage: "forming", rankNodes: ["n0", "n0", "n1", "n1"], reason: /all 2 nodes answer/ },
  },
  {
    name: "another one joins: it takes over",
    nodes: ["n0", "n1"],
    next: (core) => core.hello("n9"),
    want: { stage: "forming", rankNodes: ["n0", "n0", "n9", "n9"], reason: /others take over/ },
  },
];
for (const { name, next, want, ...options } of CASES) {
  test(`a member leaves and ${name}`, () => {
    const core = running(options);
    core.leaves("n1");
    core.ended(6);
    next?.(core);
    assert.equal(core.job.stage, want.stage, core.job.reason);
    assert.match(core.job.reason, want.reason);
    if (want.rankNodes) assert.deepEqual(core.job.generation!.rankNodes, want.rankNodes);
  });
}

test("a member leaves and no node ever comes: the job fails with a code of its own, its last state durable", () => {
  const core = running({ nodes: ["n0", "n1"] });
  core.leaves("n1");
  core.ended(6);
  core.beat(400_000);
  assert.deepEqual(
    [core.job.record.outcome?.phase, core.job.record.outcome?.code],
    ["FAILED", "NODE_PREEMPTED"],
  );
});

test("a member leaves during a person's stop, or a person stops meanwhile: the job is stopped, once", () => {
  for (const first of ["person", "node"]) {
    const core = running();
    if (first === "node") core.leaves("n1");
    core.feed({ kind: "stopRequested", requestId: "r", jobId: "job-1", graceMs: null });
    if (first === "person") core.leaves("n1");
    core.ended(6);
    assert.equal(core.job.record.outcome?.phase, "STOPPED", first);
  }
});

test("a member leaves in the last step: the job is completed", () => {
  const core = running();
  core.leaves("n1");
  core.ended(100, "steps");
  assert.equal(core.job.record.outcome?.phase, "COMPLETED");
});

test("a node that leaves gets no ranks, before and after a reconnect, and says why; its next process does", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.hello("n1");
  core.leaves("n1");
  core.hello("n1", { leaving: { graceMs: 20_000n, reason: "SIGTERM" } });
  core.submit(jobOf({ layout: FOUR }));
  assert.equal(core.job.stage, "queued");
  assert.match(core.job.reason, /2 slots free on 1 node/);
  assert.equal(nodeViews(core.state, core.nowMs)[1]!.unusable, "leaves: SIGTERM");
  core.disconnect("n1");
  core.hello("n1", { incarnation: "n1#2" });
  assert.equal(core.job.stage, "forming");
});

test("a member leaves while its generation forms: it is let form, since its memory is the newest, then ends", () => {
  const core = running();
  core.exited("n1", 2);
  core.pass(60);
  core.take();
  core.leaves("n1");
  assert.deepEqual(core.commands(), [], "nobody is disturbed");
  core.form([{ generation: 1, step: 4 }]);
  assert.deepEqual(core.commands().slice(-2), ["n0 requestStop", "n1 requestStop"]);
  core.ended(5);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
});

test("no vote in half of the grace: the newest state that all hold is saved from memory by the agents", () => {
  const core = running();
  core.hold({ n0: [AT_5, { generation: 1, step: 4 }], n1: [AT_5, { generation: 1, step: 6 }] });
  core.leaves("n1", 6_000);
  core.take();
  hang(core, 2_900);
  assert.deepEqual(core.commands(), []);
  hang(core, 200);
  assert.deepEqual(core.commands(), ["n0 saveSnapshot", "n1 saveSnapshot"]);
  const { state } = core.lastCommand("saveSnapshot").value;
  assert.deepEqual(state, { generation: 1n, step: 5n }, "step 6 is on one node alone");
  core.saved("n0", AT_5);
  core.disconnect("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(60);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  core.form();
  assert.ok(core.lastCommand("restore").value.source?.$case === "checkpoint");
  assert.equal(core.job.incidents[0]!.stepsLost, 0);
  assert.match(
    decisions(core).join("; "),
    /no vote in half of the grace: save step 5 of generation 1 from memory/,
  );
});

test("steps that take longer than the grace: the newest state is saved from memory at once, no vote is waited for", () => {
  const core = CoreHarness.running(undefined, jobOf({ layout: FOUR }));
  for (let step = 1; step <= 5; step++) {
    hang(core, 1_000);
    core.stepDone("n0", step, 8);
  }
  core.saved("n0", { generation: 1, step: 4 });
  core.hold({ n0: [AT_5], n1: [AT_5] });
  for (const { graceMs, atOnce } of [
    { graceMs: 30_000, atOnce: false },
    { graceMs: 6_000, atOnce: true },
  ]) {
    core.take();
    core.leaves("n1", graceMs);
    core.pass(1);
    assert.equal(core.commands().includes("n0 saveSnapshot"), atOnce, `grace ${graceMs} ms`);
  }
  assert.match(
    decisions(core).at(-1)!,
    /next vote comes too late to be saved \(steps take 8.0 s, a save .* save step 5 of generation 1 from memory/,
  );
});

test("a member leaves while the job recovers: memory is made durable first, and waited for within the grace alone", () => {
  for (const durable of [true, false]) {
    const core = running();
    core.hold({ n0: [AT_5], n1: [AT_5] });
    core.exited("n1", 2);
    core.leaves("n1", 10_000);
    core.pass(60);
    assert.match(core.job.reason, /n1 leaves: asks what memory holds/);
    core.beat(2_000);
    assert.equal(core.job.stage, "waiting");
    assert.match(core.job.reason, /n1 leaves: step 5 of generation 1 is saved from memory first/);
    assert.equal(core.job.generation?.number, 1);
    if (durable) core.saved("n0", AT_5);
    else core.beat(10_000);
    assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"], core.job.reason);
  }
});

test("the grace ends and the ranks have not: the generation is ended, the job goes on from what is durable", () => {
  const core = running();
  core.leaves("n1", 3_000);
  hang(core, 3_100);
  assert.equal(core.job.generation?.number, 2);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.match(core.job.incidents[0]!.evidence.map(({ text }) => text).join(), /the grace of n1 is over/);
});

test("a member that leaves goes without its last words: its end is taken for told", () => {
  const core = running();
  core.leaves("n1");
  core.saved("n0", { generation: 1, step: 6 });
  core.finished("n0", 0, 6);
  core.finished("n0", 1, 6);
  assert.equal(core.job.generation?.number, 1);
  core.disconnect("n1");
  assert.equal(core.job.generation?.number, 2);
});

test("the last save of a member that leaves takes long: nobody is called hung", () => {
  const core = running();
  core.leaves("n1", 300_000);
  const saving = (nodeId: string) =>
    (core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) =>
      page(rank, { step: 6n, phase: "finished", unchangedMs: 100_000n }),
    );
  core.beat(120_000, saving);
  assert.deepEqual([core.job.stage, core.job.generation?.number], ["running", 1]);
});

test("a new leader that does not know why its ranks end lets the last save take long", () => {
  const first = running();
  first.feed({ kind: "drainRequested", requestId: "drain", nodeId: "n1" });
  const core = new CoreHarness();
  for (const [key, entry] of first.store) core.store.set(key, entry);
  core.nowMs = first.nowMs;
  core.lead("c1");
  const saving = (nodeId: string) =>
    ({ n0: [0, 1], n1: [2, 3] })[nodeId]!.map((rank) =>
      page(rank, { step: 6n, phase: "finished", unchangedMs: 100_000n }),
    );
  for (const nodeId of ["n0", "n1"])
    core.hello(nodeId, { jobId: "job-1", generation: 1n, ranks: saving(nodeId) });
  core.beat(120_000, saving);
  assert.deepEqual([core.job.stage, core.job.generation?.number], ["running", 1]);
});

test("a new leader hears of the leaving member in its Hello, and of the end of the generation", () => {
  const first = running();
  first.leaves("n1");
  const core = new CoreHarness();
  for (const [key, entry] of first.store) core.store.set(key, entry);
  core.nowMs = 50_000;
  core.lead("c1");
  core.hello("n2");
  core.take();
  const ranks = (...numbers: number[]) => numbers.map((rank) => page(rank, { step: 8n }));
  core.hello("n0", { jobId: "job-1", generation: 1n, ranks: ranks(0, 1) });
  const leaving = { graceMs: 20_000n, reason: "SIGTERM" };
  core.hello("n1", { jobId: "job-1", generation: 1n, ranks: ranks(2, 3), leaving });
  assert.ok(core.commands().includes("n0 requestStop"), core.commands().join());
  core.ended(9);
  assert.equal(core.job.record.outcome, null, "not a person's stop");
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
});
