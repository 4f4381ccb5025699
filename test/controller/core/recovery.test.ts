import assert from "node:assert/strict";
import { test } from "node:test";
import type { QuarantineRecord } from "../../../controller/core/contract.js";
import { nodeViews, phaseOf } from "../../../controller/core/views.js";
import type { RankProgress } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness, FOUR, jobOf, page } from "./harness.js";

/** Four ranks on n0 and n1, n2 free; three steps done. */
function running(options: { maxAttempts?: number; steps?: number } = {}): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["n0", "n1", "n2"]) core.hello(nodeId);
  core.submit(jobOf({ layout: FOUR, ...options }));
  core.form();
  for (let step = 1; step <= 5; step++) core.stepDone("n0", step);
  core.take();
  return core;
}

/** So long that it knows its pace. */
function settled(): CoreHarness {
  const core = running();
  for (let step = 6; step <= 8; step++) core.stepDone("n0", step);
  core.take();
  return core;
}
const known = [{ generation: 1, step: 4 }];

test("a rank's death: survivors are told to leave, everybody forms again, the incident says it all", () => {
  const core = running();
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.exited("n1", 2);
  assert.equal(phaseOf(core.job), "RECOVERING");
  assert.deepEqual(core.commands(), ["n0 abort", "n1 abort"]);
  core.pass(60);
  assert.deepEqual(core.commands().slice(2), ["n0 prepare", "n1 prepare"]);
  core.nowMs += 400;
  core.form(known);
  core.nowMs += 500;
  core.stepDone("n0", 5);
  assert.equal(core.job.incident, null);
  const incident = core.job.incidents[0]!;
  assert.deepEqual(
    {
      ...incident,
      evidence: incident.evidence.length,
      decisions: incident.decisions.map((d) => d.text),
      openedAtMs: 0,
      closedAtMs: 0,
    },
    {
      kind: "incident",
      jobId: "job-1",
      number: 1,
      openedAtMs: 0,
      closedAtMs: 0,
      outcome: "recovered",
      code: "RANK_DIED",
      what: "rank 2 on n1 ended by SIGKILL",
      rank: 2,
      nodeId: "n1",
      operation: "",
      evidence: 2,
      evidenceDropped: 0,
      decisions: [
        "form generation 2 as 1x2x2: all 2 nodes answer",
        "restore from memory, step 4 of generation 1: the newest state that all 4 ranks hold",
      ],
      generationBefore: 1,
      generationAfter: 2,
      milestones: {
        detected: 0,
        aborted: 50,
        prepared: 50,
        ready: 460,
        connected: 460,
        restored: 460,
        stepped: 960,
      },
      stepBefore: 5,
      stepsLost: 1,
      lastLines: ["last words"],
      stacks: [],
    },
  );
  assert.deepEqual(core.store.get("incidents/job-1/000001")?.record, incident);
});

test("a fault is judged as soon as all ranks have said how they left, if one of them said why", () => {
  const core = running();
  for (const [nodeId, rank] of [
    ["n0", 0],
    ["n0", 1],
    ["n1", 3],
  ] as const)
    core.failed(nodeId, rank, "COMM_PEER_DIED", 2);
  assert.equal(core.job.stage, "settling");
  core.exited("n1", 2);
  assert.equal(core.job.generation?.number, 2);

  const untold = running();
  for (const [nodeId, rank] of [
    ["n0", 0],
    ["n0", 1],
    ["n1", 2],
    ["n1", 3],
  ] as const)
    untold.failed(nodeId, rank, "COMM_PEER_DIED", rank === 2 ? 0 : 2);
  untold.failed("n1", 3, "COMM_ABORTED");
  assert.equal(untold.job.stage, "settling", "the end of a process may be told a little later");
});

test("a step reported behind the news of a death is told, and does not end the incident", () => {
  const core = running();
  core.exited("n1", 2);
  core.stepDone("n0", 6);
  core.stepDone("n0", 6);
  const told = core.take().filter((effect) => effect.kind === "step");
  assert.deepEqual(
    told.map(({ step }) => step.step),
    [6n],
  );
  assert.equal(phaseOf(core.job), "RECOVERING");
  assert.equal(core.job.incident?.outcome, "open");
});

test("a lost agent is waited for, and its return is enough", () => {
  const core = running();
  core.disconnect("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(60);
  assert.equal(core.job.stage, "waiting");
  assert.match(core.job.reason, /waits for n1 \(ranks 2, 3\), at most 60 s/);
  core.beat(10_000);
  assert.equal(core.job.generation?.number, 1);
  core.hello("n1", { incarnation: "n1#2", jobId: "job-1" });
  assert.equal(core.job.generation?.number, 2);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n1", "n1"]);
});

test("a lost agent that stays away gives its place to a spare", () => {
  const core = running();
  core.disconnect("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.beat(62_000);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.match(core.job.reason, /n1 did not return in 60 s: others take over/);
  core.hello("n1", { incarnation: "n1#2", jobId: "job-1" });
  assert.deepEqual(core.commands().slice(-2), ["n1 welcome", "n1 release"]);
});

test("a silent agent whose peers go on is left alone", () => {
  const core = running();
  core.disconnect("n1");
  let entered = 10n;
  core.beat(120_000, (nodeId) => {
    entered += 3n;
    const ranks = nodeId === "n0" ? [0, 1] : [];
    return ranks.map((rank) =>
      page(rank, { step: entered / 10n, collectiveEntered: entered, collectiveCompleted: entered }),
    );
  });
  assert.equal(core.job.stage, "running");
  assert.equal(core.job.incidents.length, 0);
});

/** Rank 3 stands in forward, everyone else waits for it in the next collective. */
function stuckPages(nodeId: string): RankProgress[] {
  const wait = { collectiveEntered: 8n, phase: "vote", unchangedMs: 60_000n };
  if (nodeId === "n0") return [page(0, wait), page(1, wait)];
  return nodeId === "n1" ? [page(2, wait), page(3, { unchangedMs: 60_000n })] : [];
}

test("a rank that hangs is named from the progress pages, killed, and its end leads to a new generation", () => {
  const core = settled();
  core.beat(4_000, stuckPages);
  assert.equal(core.job.stage, "reaping");
  const { rank, generation } = core.lastCommand("killRank").value;
  assert.deepEqual([rank, generation], [3, 1n]);
  assert.match(
    core.job.incident!.what,
    /^rank 3 on n1 has not moved for [\d.]+ s \(step 4, forward, layer 1\); 3 ranks wait in all_gather of shard\.0 \(number 8\)$/,
  );
  core.exited("n1", 3);
  assert.equal(core.job.generation?.number, 2);
  assert.equal(core.job.incident?.code, "RANK_STALLED");
});

/** Every rank has computed the last step and waits for its agent to save it. */
function savingLast(): { core: CoreHarness; pages: (nodeId: string) => RankProgress[] } {
  const core = running({ steps: 5 });
  const pages = (nodeId: string) =>
    (core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) =>
      page(rank, { step: 5n, phase: "snapshot", unchangedMs: 60_000n }),
    );
  return { core, pages };
}

test("a member lost while all wait for the last save: it is missed after its grace, and others compute the end", () => {
  const { core, pages } = savingLast();
  core.beat(10_000, pages);
  core.disconnect("n1");
  core.beat(55_000, pages);
  assert.equal(core.job.stage, "running", "it may be writing still");
  core.beat(10_000, pages);
  assert.match(core.job.incident!.what, /n1 was not heard for 60 s while the last state was made durable/);
  core.beat(60_000, pages);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
});

test("the last save takes long, and every member can be seen: nobody is judged for 15 minutes", () => {
  const { core, pages } = savingLast();
  core.beat(890_000, pages);
  assert.equal(core.job.incidents.length + (core.job.incident === null ? 0 : 1), 0);
  core.beat(20_000, pages);
  assert.match(core.job.incident!.what, /the last state was not made durable in 900 s/);
});

test("what a rank that hangs was doing is kept with the incident", () => {
  const core = settled();
  core.beat(4_000, stuckPages);
  assert.equal(core.lastCommand("killRank").value.rank, 3);
  const value = { generation: 1n, rank: 3, lines: ["process 13: running", "main thread"] };
  core.say("n1", { $case: "rankInspected", value });
  core.exited("n1", 3);
  const stack = { rank: 3, nodeId: "n1", lines: value.lines };
  assert.deepEqual(core.job.incidents[0]!.stacks, [stack]);
  core.say("n0", { $case: "rankInspected", value });
  assert.deepEqual(core.job.incidents[0]!.stacks, [stack], "a node speaks for its own ranks only");
});

test("a process that cannot be ended makes its node a bad one, and a spare takes its place", () => {
  const core = settled();
  core.beat(15_000, stuckPages);
  assert.match(core.state.quarantine.get("n1")!.reason, /rank 3 of job shapes could not be ended/);
  assert.ok(core.store.has("quarantine/n1"));
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
});

test("a process that cannot be ended keeps its node out for good, also where a self-check had for a time", () => {
  const core = settled();
  const untilMs = core.nowMs + 3_600_000;
  const reason = "self-check: memory failed";
  const before = { reason, atMs: core.nowMs, untilMs, drained: false };
  core.state.quarantine.set("n1", { kind: "quarantine", nodeId: "n1", ...before });
  core.beat(15_000, stuckPages);
  const record = core.store.get("quarantine/n1")!.record as QuarantineRecord;
  assert.match(record.reason, /rank 3 of job shapes could not be ended/);
  assert.equal(record.untilMs, null);
  assert.deepEqual(core.state.quarantine.get("n1"), record);
});

test("a drained node whose process cannot be ended is quarantined for that", () => {
  const core = settled();
  const drained = { reason: "drained by a person", atMs: core.nowMs, untilMs: null, drained: true };
  core.state.quarantine.set("n1", { kind: "quarantine", nodeId: "n1", ...drained });
  core.beat(15_000, stuckPages);
  const record = core.store.get("quarantine/n1")!.record as QuarantineRecord;
  assert.match(record.reason, /rank 3 of job shapes could not be ended/);
  assert.equal(record.drained, false);
});

test("a quarantined node is shown with its reason, also to a new leader, until a person releases it", () => {
  const core = settled();
  core.beat(15_000, stuckPages);
  const shown = () =>
    nodeViews(core.state, core.nowMs).map((n) => `${n.nodeId} ${n.quarantined} ${n.unusable}`);
  const bad = "n1 true quarantined: rank 3 of job shapes could not be ended";
  assert.deepEqual(shown(), ["n0 false null", bad, "n2 false null"]);
  core.lead("c1");
  assert.deepEqual(shown(), [bad]);
  core.feed({ kind: "quarantineLifted", requestId: "r", nodeId: "n1" });
  core.hello("n1");
  assert.deepEqual(shown(), ["n1 false null"]);
  assert.ok(!core.store.has("quarantine/n1"));
  core.feed({ kind: "quarantineLifted", requestId: "again", nodeId: "n1" });
  const again = core.effects.findLast((e) => e.kind === "reply");
  assert.ok(again?.kind === "reply" && !again.result.ok && again.result.code === "NOT_FOUND");
});

test("when the pages do not tell, the ranks that do not answer the abort are the ones that hang", () => {
  const core = settled();
  const wait = { collectiveEntered: 8n, phase: "vote", unchangedMs: 60_000n };
  const pages = (nodeId: string) =>
    nodeId === "n0" ? [page(0, wait), page(1, wait)] : nodeId === "n1" ? [page(2, wait), page(3, wait)] : [];
  while (core.job.stage !== "answering") core.beat(1_000, pages);
  for (const [rank, nodeId] of [
    [0, "n0"],
    [2, "n1"],
    [3, "n1"],
  ] as const)
    core.failed(nodeId, rank, "COMM_ABORTED");
  core.beat(4_000, pages);
  assert.equal(core.lastCommand("killRank").value.rank, 1);
});

test("attempts without a new step end the job with NO_PROGRESS and its evidence", () => {
  const core = running({ maxAttempts: 3 });
  for (let i = 0; i < 3; i++) {
    core.exited(core.job.generation!.rankNodes[2]!, 2);
    core.beat(6_000);
    core.form(known);
    core.stepDone("n0", 5); // computed before: no progress
  }
  core.exited(core.job.generation!.rankNodes[2]!, 2);
  core.pass(100);
  const { outcome } = core.job.record;
  assert.deepEqual([outcome?.phase, outcome?.code], ["FAILED", "NO_PROGRESS"]);
  assert.match(
    outcome!.reason,
    /3 of 3 attempts and no step beyond 5 was completed; last fault: rank 2 on n\d ended by SIGKILL/,
  );
});

test("a step never completed before ends a streak of attempts", () => {
  const core = running({ maxAttempts: 2 });
  for (let i = 0; i < 6; i++) {
    if (i % 2 === 0) core.exited("n1", 2);
    else core.exited("n0", 1);
    core.beat(3_000);
    core.form(known);
    core.stepDone("n0", 6 + i);
    assert.equal(core.job.attempts, 0);
  }
  assert.equal(core.job.incidents.length, 6);
});

test("a node that takes every attempt down is left for a spare", () => {
  const core = running({ maxAttempts: 9 });
  for (let i = 0; i < 3; i++) {
    core.exited("n1", 2);
    core.beat(6_000);
    if (i < 2) core.form(known);
  }
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.match(core.job.reason, /without n1 \(3 faults in a row without progress\)/);
});

test("waiting for nodes is no attempt, and ends after as many graces", () => {
  const core = running({ maxAttempts: 2 });
  core.disconnect("n1");
  core.disconnect("n2");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.beat(100_000);
  assert.deepEqual([core.job.stage, core.job.attempts], ["waiting", 0]);
  assert.match(core.job.reason, /n1 did not return in 60 s; layout .*; waits for nodes, at most 120 s/);
  core.beat(21_000);
  const { outcome } = core.job.record;
  assert.deepEqual([outcome?.phase, outcome?.code], ["FAILED", "NODE_LOST"]);
  assert.match(
    outcome!.reason,
    /^Cannot recover: no nodes came in 120 s: .*; last fault: rank 2 on n1 was lost/,
  );
});

test("a stop ends a recovery that waits, at the newest durable checkpoint", () => {
  const core = running();
  const state = { generation: 1n, step: 3n };
  core.say("n0", {
    $case: "checkpointCommitted",
    value: { generation: 1n, state, uri: "file:///c/3", bytes: 1n, seconds: 1 },
  });
  core.disconnect("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(100);
  core.feed({ kind: "stopRequested", requestId: "stop", jobId: "job-1", graceMs: null });
  const { outcome } = core.job.record;
  assert.deepEqual([outcome?.phase, outcome?.step], ["STOPPED", 3]);
  assert.match(
    outcome!.reason,
    /waits for n1 .*: step 3 is durable at file:\/\/\/c\/3, 2 later steps are given up$/,
  );
});

test("a stop while a fault is judged: what memory holds is restored, saved and stopped when no node is missing", () => {
  const core = running({ maxAttempts: 2 });
  core.exited("n1", 2);
  core.feed({ kind: "stopRequested", requestId: "stop", jobId: "job-1", graceMs: null });
  for (const _ of [1, 2]) {
    core.pass(60); // the second attempt waits for no pause
    assert.equal(core.job.stage, "forming");
    core.form(known);
    assert.deepEqual(core.commands().slice(-2), ["n0 requestStop", "n1 requestStop"]);
    core.exited("n1", 2);
  }
  core.pass(60);
  assert.equal(core.job.reason, "a stop is asked for: asks what memory holds");
  core.beat(2_000); // no agent tells that it holds anything
  assert.deepEqual([core.job.record.outcome?.phase, core.job.record.outcome?.step], ["STOPPED", 0]);
  assert.match(core.job.record.outcome!.reason, /nothing is durable, 4 later steps are given up/);
});

test("a timer that fires far too late judges nobody: the controller itself stood still", () => {
  const core = settled();
  core.beat(1_000, stuckPages);
  const [timer, atMs] = [...core.state.timers].find(([name]) => name.endsWith("/stall"))!;
  core.nowMs = atMs + 30_000;
  core.heartbeat("n0", 1, stuckPages("n0"));
  core.heartbeat("n1", 1, stuckPages("n1"));
  core.feed({ kind: "timerFired", timer });
  assert.equal(core.job.stage, "running");
});

test("a job of which nobody can be seen is given up after the grace, and taken back when it comes back training", () => {
  const core = running();
  for (const nodeId of ["n0", "n1"]) core.disconnect(nodeId);
  core.pass(130_000);
  assert.equal(core.job.stage, "waiting");
  core.take();
  const train = (ranks: number[]) => ({
    jobId: "job-1",
    generation: 1n,
    ranks: ranks.map((rank) => page(rank, { step: 90n })),
  });
  core.hello("n1", train([2, 3]));
  assert.equal(core.job.stage, "running");
  core.hello("n0", train([0, 1]));
  assert.deepEqual(
    core.commands().filter((c) => /prepare|abort/.test(c)),
    [],
  );
  assert.equal(core.job.generation?.number, 1);
});

test("survivors by the thousand that miss the same peer: evidence of the first, the rest is counted, one fault for each node", () => {
  const nodes = Array.from({ length: 26 }, (_, at) => `n${10 + at}`);
  const layout = { dp_replicate: 1, dp_shard: 50, sp: 1 };
  const core = CoreHarness.running(nodes, jobOf({ layout }));
  const { rankNodes } = core.job.generation!;
  const lost = rankNodes[2]!;
  for (const [rank, nodeId] of rankNodes.entries())
    if (nodeId !== lost) core.failed(nodeId, rank, "COMM_PEER_DIED", 2);
  // 32 are told to people; of the other 8 nodes, one fault each.
  assert.equal(core.job.stage, "settling");
  assert.equal(core.job.faults.length, 32 + 8);
  assert.equal(core.job.generation!.answered.size, 48);
  const { evidence, evidenceDropped } = core.job.incident!;
  assert.deepEqual([evidence.length, evidenceDropped], [32, 16]);
  core.pass(5_000);
  assert.equal(core.job.incidents[0]!.what, `rank 2 on ${lost} was lost by 48 peers in all_reduce`);
});

test("ranks of a node that failed alike count one by one, told together or each by itself", () => {
  const told = [true, false].map((together) => {
    const core = settled();
    const ranks = [...core.job.generation!.nodeRanks.get("n0")!];
    const [first, ...others] = ranks;
    if (together) core.failed("n0", first!, "COMM_PEER_DIED", 2, "all_reduce", others);
    else for (const rank of ranks) core.failed("n0", rank, "COMM_PEER_DIED", 2);
    core.exited("n1", 2);
    const { answered } = core.job.generation!;
    const { faults, incident } = core.job;
    return structuredClone({ answered, faults, evidence: incident!.evidence });
  });
  assert.deepEqual([...told[0]!.answered].sort(), [0, 1, 2]);
  assert.deepEqual(told[0], told[1]);
});

test("of ranks that failed alike those of another node are passed over", () => {
  const core = settled();
  core.failed("n0", 0, "COMM_PEER_DIED", 2, "all_reduce", [1, 3]);
  assert.deepEqual([...core.job.generation!.answered], [0, 1]);
});

test("what ranks that failed alike have said is no fault of the generation that forms with the last answer", () => {
  const core = settled();
  const waits = { collectiveEntered: 8n, unchangedMs: 60_000n };
  core.beat(4_000, (nodeId) =>
    [...(core.job.generation!.nodeRanks.get(nodeId) ?? [])].map((rank) => page(rank, waits)),
  );
  core.pass(100);
  assert.equal(core.job.stage, "answering");
  for (const [nodeId, rank] of [
    ["n0", 0],
    ["n0", 1],
    ["n1", 3],
  ] as const)
    core.failed(nodeId, rank, "COMM_ABORTED");
  core.failed("n1", 2, "COMM_ABORTED", undefined, "all_reduce", [3]);
  assert.equal(core.job.generation!.number, 2);
  assert.equal(core.job.stage, "forming");
  assert.deepEqual([...core.job.generation!.answered], []);
});
