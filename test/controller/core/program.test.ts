import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { jobView } from "../../../controller/core/views.js";
import type { RankProgress } from "../../../gen/goku/v1/agent.pb.js";
import type { CommandJob } from "../../../job/command_job.js";
import { CoreHarness, page, programJobOf } from "./harness.js";

/** Node a runs rank 0, b rank 1; a third is free where the test wants one. */
function running(job: CommandJob = programJobOf(), nodes = ["a", "b"]): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (const node of nodes) core.hello(node, { slots: 1 });
  core.submit(job);
  core.pass(2_500); // layout auto waits for more nodes
  core.form();
  assert.equal(core.job.stage, "running");
  core.take();
  return core;
}

/** A program's page: `beats` 0: it has not beaten. */
function beat(rank: number, more: Partial<RankProgress> & { beats?: number } = {}): RankProgress {
  const { beats = 1, ...rest } = more;
  const idle = { layer: -1, collectiveEntered: 0n, collectiveCompleted: 0n, collective: "", group: "" };
  return page(rank, { ...idle, step: 0n, microStep: beats, phase: "program", ...rest });
}

/** The failure of a rank's program. */
function crashes(core: CoreHarness, nodeId: string, rank: number): void {
  core.say(nodeId, {
    $case: "rankFailed",
    value: {
      generation: BigInt(core.job.generation!.number),
      rank,
      error: {
        code: "PROGRAM_FAILED",
        message: "the program exited with code 3",
        peer: undefined,
        operation: "program",
      },
      lastLines: ["bad luck"],
      others: [],
    },
  });
}

function aborted(core: CoreHarness, nodeId: string, rank: number): void {
  core.failed(nodeId, rank, "COMM_ABORTED");
}

/** Code of the open incident; null: there is none. */
function fault(core: CoreHarness): string | null {
  return core.job.incident?.code ?? null;
}

function events(core: CoreHarness): string[] {
  return core.effects.flatMap((effect) => (effect.kind === "log" ? [effect.entry.text] : []));
}

describe("a job that runs a program of its own", () => {
  it("restores nothing, keeps no replicas, and is told its restarts and its highest step", () => {
    const core = running();
    assert.equal(core.job.generation!.restore?.kind, "initial");
    assert.deepEqual(core.job.generation!.keepers?.keepers, [null, null]);
    core.heartbeat("a", 1, [beat(0, { step: 7n })]);
    crashes(core, "b", 1);
    aborted(core, "a", 0);
    core.pass(50);
    const { restarts, stepHighest, replicate } = core.lastCommand("prepare").value;
    assert.deepEqual(
      { restarts, stepHighest, replicate },
      { restarts: 1, stepHighest: 7n, replicate: false },
    );
  });

  it("is completed by the last rank that ends well, not by the first", () => {
    const core = running();
    core.finished("a", 0, 0, "steps");
    core.beat(120_000, (nodeId) => [
      beat(nodeId === "a" ? 0 : 1, { beats: 0, phase: nodeId === "a" ? "finished" : "program" }),
    ]);
    assert.equal(core.job.stage, "running");
    core.finished("b", 1, 0, "steps");
    assert.equal(core.job.record.outcome?.phase, "COMPLETED");
    assert.equal(core.job.record.outcome?.reason, "all 2 programs ended with exit code 0");
  });

  it("starts all anew where one fails after another has ended well", () => {
    const core = running();
    core.finished("a", 0, 0, "steps");
    crashes(core, "b", 1);
    aborted(core, "a", 0);
    core.pass(50);
    assert.equal(core.job.generation!.number, 2);
    core.form();
    core.finished("b", 1, 0, "steps");
    assert.equal(core.job.stage, "running", "what ended in the generation before does not count");
  });

  it("names the rank that failed, with its last lines, and counts the steps lost as unknown", () => {
    const core = running();
    crashes(core, "b", 1);
    aborted(core, "a", 0);
    core.pass(50);
    core.form();
    const [incident] = core.job.incidents;
    assert.equal(incident?.what, "rank 1 on b: PROGRAM_FAILED in program: the program exited with code 3");
    assert.deepEqual(incident?.lastLines, ["bad luck"]);
    assert.equal(incident?.stepsLost, null);
    assert.equal(
      incident?.outcome,
      "recovered",
      "it runs again, and more is not known of one that does not beat",
    );
    assert.match(
      events(core).find((text) => text.startsWith("recovered"))!,
      /^recovered in \d+\.\d s: rank 1 on b/,
    );
  });

  it("ends an incident by the first heartbeat, where heartbeats are known to come", () => {
    const core = running();
    core.heartbeat("a", 1, [beat(0, { step: 7n })]);
    crashes(core, "b", 1);
    aborted(core, "a", 0);
    core.pass(50);
    core.form();
    assert.equal(core.job.incidents[0]?.outcome, "open");
    core.heartbeat("a", 2, [beat(0, { step: 1n })]);
    assert.equal(core.job.incidents[0]?.outcome, "recovered");
  });

  it("fails after max_attempts without progress, and names the last fault", () => {
    const core = running(programJobOf({ maxAttempts: 2 }));
    for (let attempt = 0; attempt < 3; attempt++) {
      crashes(core, "b", 1);
      aborted(core, "a", 0);
      core.beat(3_000);
      if (core.job.stage === "forming") core.form();
    }
    const { outcome } = core.job.record;
    assert.equal(outcome?.code, "NO_PROGRESS");
    assert.match(outcome!.reason, /the program exited with code 3/);
    assert.equal(core.job.generation!.number, 3);
  });

  it("counts attempts anew after a step beyond the highest, and not after one that was told before", () => {
    const core = running();
    core.heartbeat("a", 1, [beat(0, { step: 5n })]);
    crashes(core, "b", 1);
    aborted(core, "a", 0);
    core.pass(50);
    core.form();
    core.heartbeat("a", 2, [beat(0, { step: 5n })]);
    assert.equal(core.job.attempts, 1);
    core.heartbeat("a", 2, [beat(0, { step: 6n, beats: 2 })]);
    assert.equal(core.job.attempts, 0);
  });

  it("counts attempts anew when a program that tells no steps has run for ten minutes", () => {
    const core = running();
    const fail = () => {
      crashes(core, "b", 1);
      aborted(core, "a", 0);
      core.beat(4_000);
      core.form();
    };
    fail();
    fail();
    assert.equal(core.job.attempts, 2);
    core.beat(590_000);
    fail();
    assert.equal(core.job.attempts, 3);
    core.beat(601_000);
    fail();
    assert.equal(core.job.attempts, 1);
  });

  it("has the rank killed that stops to beat while the others beat on", () => {
    const core = running();
    let beats = 0;
    const pages = (nodeId: string) => {
      beats += 1;
      return [nodeId === "a" ? beat(0, { beats }) : beat(1, { beats: 3 })];
    };
    core.beat(30_000, pages);
    assert.deepEqual(core.lastCommand("killRank").value.rank, 1);
    assert.match(core.job.incident!.what, /^rank 1 on b: no heartbeat for 2\d\.\d s; 1 other went on$/);
    assert.equal(fault(core), "RANK_STALLED");
    assert.equal(core.job.stage, "reaping");
    aborted(core, "a", 0);
    core.exited("b", 1);
    assert.equal(core.job.stage, "forming");
  });

  it("starts all anew where all stop to beat at one step, and kills nobody by name", () => {
    const core = running();
    core.beat(30_000, (nodeId) => [beat(nodeId === "a" ? 0 : 1, { step: 4n })]);
    assert.equal(core.commands().includes("b killRank"), false);
    assert.match(core.job.incident!.what, /^all 2 ranks that beat: no heartbeat for/);
    assert.equal(core.job.generation!.number, 2);
  });

  it("leaves a silent program alone, unless all ranks must beat", () => {
    const silent = (nodeId: string) => [beat(nodeId === "a" ? 0 : 1, { beats: 0 })];
    const optional = running();
    optional.beat(3_600_000, silent);
    assert.equal(optional.job.generation!.number, 1);
    const required = running(programJobOf({ heartbeat: "required" }));
    required.beat(30_000, silent);
    assert.equal(fault(required), "RANK_STALLED");
  });

  it("learns from heartbeats that name a step how long the next may take", () => {
    const core = running(programJobOf({ stallSeconds: 30 }));
    // Every tenth step is told, each 2 s: 20 s between two heartbeats, so that 60 s are no stall and 90 s are.
    for (let step = 10; step <= 60; step += 10) {
      core.beat(20_000, () => []);
      core.heartbeat("a", 1, [beat(0, { step: BigInt(step), beats: step / 10 })]);
      core.heartbeat("b", 1, [beat(1, { step: BigInt(step), beats: step / 10 })]);
      core.stepDone("a", step, step === 10 ? 0 : 2);
    }
    const still = (unchanged: number) => (nodeId: string) => {
      const rank = nodeId === "a" ? 0 : 1;
      return [beat(rank, { step: 60n, beats: 6, unchangedMs: BigInt(unchanged) })];
    };
    core.beat(60_000, still(0));
    assert.equal(fault(core), null);
    core.beat(30_000, still(0));
    assert.equal(fault(core), "RANK_STALLED");
  });

  it("is not judged by the time its controller stood still", () => {
    const core = running();
    core.heartbeat("a", 1, [beat(0)]);
    core.heartbeat("b", 1, [beat(1)]);
    core.nowMs += 600_000; // it slept, and finds its timers and then its messages
    core.pass(0);
    core.heartbeat("a", 1, [beat(0, { beats: 9 })]);
    core.heartbeat("b", 1, [beat(1, { beats: 9 })]);
    core.pass(2_500);
    assert.equal(fault(core), null);
  });

  it("loses a node that goes silent, and goes on at once where another is free", () => {
    const core = running(programJobOf(), ["a", "b", "c"]);
    core.disconnect("b");
    const pages = (nodeId: string) => (nodeId === "a" ? [beat(0, { beats: 0 })] : []);
    core.beat(15_000, pages);
    assert.equal(fault(core), "NODE_LOST");
    assert.deepEqual(core.job.generation!.rankNodes, ["a", "c"]);
    assert.match(
      events(core).join("\n"),
      /b \(rank 1\) cannot be reached, and no state is kept there: others take over at once/,
    );
  });

  it("keeps a node that is silent as long as the others beat, but not beyond the grace for lost nodes", () => {
    const core = running();
    core.disconnect("b");
    let beats = 0;
    const pages = (nodeId: string) => (nodeId === "a" ? [beat(0, { beats: ++beats })] : []);
    core.beat(50_000, pages);
    assert.equal(core.job.generation!.number, 1);
    assert.equal(fault(core), null);
    core.beat(15_000, pages);
    assert.equal(fault(core), "NODE_LOST");
  });

  it("waits for the grace where the controller sees none of its nodes", () => {
    const core = running();
    core.disconnect("a");
    core.disconnect("b");
    core.pass(50_000);
    assert.equal(fault(core), null);
    core.pass(15_000);
    assert.equal(fault(core), "NODE_LOST");
  });

  it("with layout auto goes on with fewer ranks after the grace, and takes a free node at its next start alone", () => {
    const core = running(programJobOf({ layout: "auto" }));
    core.disconnect("b");
    core.beat(80_000, (nodeId) => (nodeId === "a" ? [beat(0, { beats: 0 })] : []));
    assert.deepEqual(core.job.generation!.rankNodes, ["a"]);
    core.form();
    core.hello("b", { slots: 1, incarnation: "b#2" });
    core.beat(120_000, (nodeId) => (nodeId === "a" ? [beat(0, { beats: 0 })] : []));
    assert.equal(core.job.generation!.layout.worldSize, 1, "a program is never interrupted for that");
    crashes(core, "a", 0);
    core.pass(50);
    assert.deepEqual(core.job.generation!.rankNodes, ["a", "b"]);
    assert.equal(core.lastCommand("prepare").value.restarts, 2);
  });

  it("with layout auto goes on without a node on which its program has failed three times in a row", () => {
    const core = running(programJobOf({ layout: "auto" }));
    for (let failure = 0; failure < 3; failure++) {
      assert.deepEqual(core.job.generation!.rankNodes, ["a", "b"]);
      crashes(core, "b", 1);
      aborted(core, "a", 0);
      core.beat(4_000);
      if (failure < 2) core.form();
    }
    assert.deepEqual(core.job.generation!.rankNodes, ["a"]);
    assert.match(
      events(core).join("\n"),
      /without b \(3 faults in a row without progress\): auto chose 1 rank/,
    );
  });

  it("stops when all programs have ended, whatever they exit with", () => {
    const core = running();
    core.feed({ kind: "stopRequested", requestId: "r", jobId: "job-1", graceMs: null });
    assert.deepEqual(core.commands(), ["a requestStop", "b requestStop"]);
    core.finished("a", 0, 12);
    assert.equal(core.job.stage, "running");
    core.finished("b", 1, 11);
    assert.equal(core.job.record.outcome?.phase, "STOPPED");
    assert.equal(core.job.record.outcome?.step, 12);
  });

  it("stops at once when it cannot run, and says nothing of states", () => {
    const core = running();
    core.disconnect("b");
    core.beat(15_000, (nodeId) => (nodeId === "a" ? [beat(0, { beats: 0 })] : []));
    assert.equal(core.job.stage, "waiting");
    core.feed({ kind: "stopRequested", requestId: "r", jobId: "job-1", graceMs: null });
    assert.match(core.job.record.outcome!.reason, /^stopped as asked, while it could not recover \(.*\)$/);
  });

  it("ends in order when a node leaves, and goes on without it", () => {
    const core = running(programJobOf(), ["a", "b", "c"]);
    core.leaves("b");
    assert.deepEqual(core.commands(), ["a requestStop", "b requestStop"]);
    core.finished("a", 0, 3);
    core.finished("b", 1, 3);
    assert.deepEqual(core.job.generation!.rankNodes, ["a", "c"]);
    assert.equal(core.job.attempts, 1);
    assert.match(
      core.job.incident!.decisions.map(({ text }) => text).join("; "),
      /its programs ended: start them without b/,
    );
  });

  it("has no checkpoint of ours to save", () => {
    const core = running();
    core.feed({ kind: "saveRequested", requestId: "r", jobId: "job-1" });
    const reply = core.effects.find((effect) => effect.kind === "reply");
    assert.ok(reply?.kind === "reply" && !reply.result.ok);
    assert.equal(reply.result.code, "STATE_INVALID");
    assert.match(reply.result.message, /its checkpoints are those of its own program/);
  });

  it("is adopted by a new leader that sees it run, with its restarts and the ranks that have ended", () => {
    const core = running();
    crashes(core, "b", 1);
    aborted(core, "a", 0);
    core.pass(50);
    core.form();
    core.feed({ kind: "leadershipLost", reason: "test" });
    core.lead("c1");
    const there = (rank: number, phase: string) => ({
      slots: 1,
      jobId: "job-1",
      generation: 2n,
      ranks: [beat(rank, { phase, beats: 0, generation: 2n })],
    });
    core.hello("a", there(0, "finished"));
    core.hello("b", there(1, "program"));
    assert.equal(core.job.stage, "running");
    assert.equal(core.job.restarts, 1);
    core.finished("a", 0, 0, "steps");
    core.finished("b", 1, 0, "steps");
    assert.equal(core.job.record.outcome?.phase, "COMPLETED");
    assert.equal(jobView(core.state, "job-1", core.nowMs)?.phase, "COMPLETED");
  });

  it("is judged by what its agent has told, not by what was not heard since", () => {
    const core = running();
    const told = (beats: number, unchangedMs: number) => {
      core.heartbeat("a", 1, [beat(0, { beats })]);
      core.heartbeat("b", 1, [beat(1, { unchangedMs: BigInt(unchangedMs) })]);
    };
    for (let second = 0; second < 19; second++) {
      told(second + 1, 1_000 * second + 1);
      core.pass(1_000);
    }
    core.pass(2_400);
    assert.equal(core.job.stage, "running", "the last that was heard of rank 1 is 18 s without a heartbeat");
    told(20, 21_400);
    core.pass(3_000);
    assert.equal(fault(core), "RANK_STALLED");
    assert.match(core.job.incident!.what, /^rank 1 on b: no heartbeat for 21.4 s/);
  });
});
