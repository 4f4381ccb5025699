import assert from "node:assert/strict";
import { test } from "node:test";
import type { Effect } from "../../../controller/core/contract.js";
import { phaseOf } from "../../../controller/core/views.js";
import type { RankProgress } from "../../../gen/goku/v1/agent.pb.js";
import type { Device } from "../../../job/device.js";
import { READ_MEMORY } from "../../../job/errors.js";
import { CoreHarness, jobOf, page } from "./harness.js";

/** Two nodes of two slots, one job of four ranks, in PREPARE. */
function preparing(): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.hello("n1");
  core.submit(jobOf({ layout: { dp_replicate: 1, dp_shard: 2, sp: 2 } }));
  return core;
}
function running(): CoreHarness {
  const core = preparing();
  core.form();
  core.stepDone("n0", 1);
  core.take();
  return core;
}
const refusals = (effects: readonly Effect[]) =>
  effects.flatMap((e) =>
    e.kind === "observe" && e.metric === "goku_agent_messages_refused_total" ? [e.labels.reason] : [],
  );

test("a generation forms with one message to each node and phase", () => {
  const core = preparing();
  assert.deepEqual(core.commands().slice(2), ["n0 prepare", "n1 prepare"]);
  assert.deepEqual(core.lastCommand("prepare").value.ranks, [2, 3]);
  assert.equal(phaseOf(core.job), "FORMING");
  core.form();
  assert.deepEqual(core.commands().slice(4), [
    "n0 connect",
    "n1 connect",
    "n0 restore",
    "n1 restore",
    "n0 run",
    "n1 run",
  ]);
  assert.equal(phaseOf(core.job), "RUNNING");
  const { nodes } = core.lastCommand("connect").value;
  assert.deepEqual(
    nodes.map(({ nodeId, ranks }) => [nodeId, ranks]),
    [
      ["n0", [0, 1]],
      ["n1", [2, 3]],
    ],
  );
  assert.ok(nodes.every(({ ports }) => ports.length === 2 && ports.every((port) => port > 0)));
});

test("a phase goes on only when the last rank has reported, however often others repeat themselves", () => {
  const core = preparing();
  core.take();
  for (let i = 0; i < 5; i++) {
    for (const rank of [0, 1]) {
      core.say("n0", {
        $case: "rankReady",
        value: { generation: 1n, rank, pid: 1, port: 1, heldStates: [] },
      });
    }
  }
  core.say("n1", { $case: "rankReady", value: { generation: 1n, rank: 2, pid: 1, port: 1, heldStates: [] } });
  assert.deepEqual(core.commands(), []);
  core.say("n1", { $case: "rankReady", value: { generation: 1n, rank: 3, pid: 1, port: 1, heldStates: [] } });
  assert.deepEqual(core.commands(), ["n0 connect", "n1 connect"]);
});

test("reports of another generation, of another node's rank and of an older stream are refused and counted", () => {
  const core = preparing();
  const old = core.sessions.get("n0")!;
  core.hello("n0");
  core.take();
  core.say("n0", { $case: "rankReady", value: { generation: 9n, rank: 0, pid: 1, port: 1, heldStates: [] } });
  core.say("n1", { $case: "rankReady", value: { generation: 1n, rank: 0, pid: 1, port: 1, heldStates: [] } });
  core.say(
    "n0",
    { $case: "rankReady", value: { generation: 1n, rank: 0, pid: 1, port: 1, heldStates: [] } },
    old,
  );
  core.say("n0", {
    $case: "rankReady",
    value: { generation: 2n ** 60n, rank: 0, pid: 1, port: 1, heldStates: [] },
  });
  assert.deepEqual(refusals(core.effects), [
    "stale_generation",
    "stale_generation",
    "stale_session",
    "malformed",
  ]);
  assert.equal(core.job.generation?.reachedCount, 0);
});

test("a node that reconnects while a generation forms is told again", () => {
  const core = preparing();
  core.disconnect("n1");
  core.take();
  core.hello("n1", {
    jobId: "job-1",
    generation: 1n,
    ranks: [page(2, { phase: "idle" }), page(3, { phase: "idle" })],
  });
  assert.deepEqual(core.commands(), ["n1 welcome", "n1 prepare"]);
  assert.equal(core.job.attempts, 0);
});

test("an agent that restarts during PREPARE starts over without failing the generation", () => {
  const core = preparing();
  core.say("n1", { $case: "rankReady", value: { generation: 1n, rank: 2, pid: 1, port: 1, heldStates: [] } });
  core.hello("n1", { incarnation: "n1#2" });
  assert.equal(core.job.generation?.reachedCount, 0);
  core.form();
  assert.equal(core.job.stage, "running");
  assert.equal(core.job.generation?.number, 1);
});

test("a rank that is not ready in time is killed before the next generation forms", () => {
  const core = preparing();
  const generation = 1;
  for (const [rank, nodeId] of [
    [0, "n0"],
    [1, "n0"],
    [2, "n1"],
  ] as const) {
    core.say(nodeId, {
      $case: "rankReady",
      value: { generation: 1n, rank, pid: 1, port: 1, heldStates: [] },
    });
  }
  core.beat(61_000);
  assert.equal(core.lastCommand("killRank").value.rank, 3);
  assert.equal(core.job.stage, "reaping");
  core.exited("n1", 3, "SIGKILL", generation);
  assert.equal(core.job.generation?.number, 2);
  assert.match(core.job.incident!.what, /rank 3 on n1 was not ready in time for generation 1/);
});

test("a process that is stopped or asleep where it should get ready is killed after 5 s; not on a GPU, nor before its node has heard", () => {
  const late = (options: { device?: Device; commandId?: number; ready?: number }) => {
    const core = preparing();
    const generation = core.job.generation!;
    generation.device = options.device ?? "cpu";
    const { term, commandId } = generation.told.get("n1")!;
    const heard = { term: BigInt(term), commandId: BigInt(options.commandId ?? commandId) };
    if (options.ready !== undefined)
      core.say("n1", {
        $case: "rankReady",
        value: { generation: 1n, rank: options.ready, pid: 1, port: 1, heldStates: [] },
      });
    for (let beats = 0; beats < 8; beats++) {
      core.pass(1_000);
      core.heartbeat("n0", 1, []);
      if (core.job.stage !== "forming") break;
      const blocked = (rank: number, ms: number) =>
        page(rank, { generation: 0n, unchangedMs: BigInt(ms), blockedMs: BigInt(ms) });
      core.heartbeat("n1", 1, [blocked(2, 900 * beats), blocked(3, 300 * beats)], null, heard);
    }
    core.pass(100);
    return core;
  };
  const hung = late({});
  assert.deepEqual([...hung.job.kills.keys()], [2]);
  const what = hung.job.incident!.what;
  assert.match(what, /^rank 2 on n1 has shown no sign of life for [67] s \(prepare of generation 1\)/);
  for (const fine of [{ device: "cuda" as const }, { commandId: 0 }, { ready: 2 }])
    assert.equal(late(fine).job.stage, "forming", JSON.stringify(fine));
});

/** All four ranks are told to restore. */
function restoring(): CoreHarness {
  const core = preparing();
  for (const kind of ["rankReady", "rankConnected"] as const)
    for (const [rank, nodeId] of core.job.generation!.rankNodes.entries())
      core.say(
        nodeId,
        kind === "rankReady"
          ? {
              $case: kind,
              value: { generation: 1n, rank, pid: 10 + rank, port: 9_000 + rank, heldStates: [] },
            }
          : { $case: kind, value: { generation: 1n, rank } },
      );
  assert.equal(core.job.generation!.stage, "restore");
  return core;
}

/** Pages of the ranks on a node that restore; those that beat change every second. */
function restorePages(core: CoreHarness, nodeId: string, changes: Record<number, Partial<RankProgress>>) {
  return core.job
    .generation!.nodeRanks.get(nodeId)!
    .map((rank) => page(rank, { phase: "restore", microStep: core.nowMs, generation: 1n, ...changes[rank] }));
}

test("a rank that shows no sign of life while it restores is killed long before the deadline, one that waits is not", () => {
  const core = restoring();
  const still = { microStep: 0 };
  const waits = { microStep: 0, collectiveEntered: 8n };
  const startedMs = core.nowMs;
  core.beat(55_000, (nodeId) => restorePages(core, nodeId, { 1: waits, 3: still }));
  assert.equal(core.job.stage, "forming");
  core.beat(10_000, (nodeId) => restorePages(core, nodeId, { 1: waits, 3: still }));
  assert.equal(core.job.stage, "reaping");
  assert.equal(core.lastCommand("killRank").value.rank, 3);
  assert.ok(core.nowMs - startedMs < core.state.config.limits.restoreMs);
  assert.match(
    core.job.incident!.what,
    /rank 3 on n1 has shown no sign of life for 6\d s \(restore of generation 1\)/,
  );
  core.exited("n1", 3, "SIGKILL", 1);
  assert.equal(core.job.generation?.number, 2);
});

test("a rank whose thread sleeps or is stopped while a generation forms is killed after 5 s, one that waits for others is not", () => {
  const core = restoring();
  const startedMs = core.nowMs;
  const pages = (nodeId: string) => {
    const blockedMs = BigInt(core.nowMs - startedMs);
    return restorePages(core, nodeId, {
      1: { microStep: 0, blockedMs, collectiveEntered: 8n },
      2: { blockedMs },
      3: { microStep: 0, blockedMs },
    });
  };
  core.beat(5_000, pages);
  assert.equal(core.job.stage, "forming");
  core.beat(2_000, pages);
  core.pass(100);
  assert.deepEqual([...core.job.kills.keys()], [3]);
  assert.match(core.job.incident!.what, /^rank 3 on n1 has shown no sign of life for [567] s/);
});

test("nobody is connected in time: of ranks that are late the one that has stopped beating is named, whatever its number", () => {
  const core = preparing();
  for (const [rank, nodeId] of core.job.generation!.rankNodes.entries())
    core.say(nodeId, {
      $case: "rankReady",
      value: { generation: 1n, rank, pid: 10 + rank, port: 9_000 + rank, heldStates: [] },
    });
  assert.equal(core.job.generation!.stage, "connect");
  core.beat(31_000, (nodeId) => restorePages(core, nodeId, { 3: { microStep: 0 } }));
  assert.equal(core.job.stage, "reaping");
  assert.equal(core.lastCommand("killRank").value.rank, 3);
  assert.match(
    core.job.incident!.what,
    /rank 3 on n1 has shown no sign of life for \d\d s \(connect of generation 1\)/,
  );
});

test("ranks that restore for long and beat are left alone until the deadline", () => {
  const core = restoring();
  core.beat(880_000, (nodeId) => restorePages(core, nodeId, {}));
  assert.equal(core.job.stage, "forming");
});

test("nobody has restored in time: the rank that still reads is named, not those that wait for what it hands on", () => {
  const core = restoring();
  const waits = { microStep: 0, collectiveEntered: 8n };
  core.beat(910_000, (nodeId) => restorePages(core, nodeId, { 0: waits, 1: waits, 3: waits }));
  assert.match(core.job.incident!.what, /^rank 2 on n1 was not restored in time for generation 1/);
});

test("a node that falls silent for long fails the forming generation, and is waited for", () => {
  const core = preparing();
  core.pass(14_000);
  assert.equal(core.job.stage, "waiting");
  assert.match(core.job.reason, /waits for n0 \(ranks 0, 1\), n1 \(ranks 2, 3\), at most 60 s/);
  core.heartbeat("n0", 1, []);
  core.heartbeat("n1", 1, []);
  assert.equal(core.job.generation?.number, 2);
});

test("a node that falls silent while the first generation forms is not waited for where another is free, a later one is", () => {
  const core = preparing();
  core.hello("n2");
  const falls = () => {
    for (let ms = 0; ms < 14_000 && core.job.stage === "forming"; ms += 1_000) {
      core.pass(1_000);
      for (const nodeId of ["n0", "n2"]) core.heartbeat(nodeId, core.job.generation!.number, []);
    }
    core.pass(100);
  };
  falls();
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.match(
    core.job.incident!.decisions.at(-1)!.text,
    /n1 \(ranks 2, 3\) cannot be reached, and no state is kept there/,
  );

  const later = running();
  later.exited("n1", 3);
  later.pass(100);
  later.hello("n2");
  assert.equal(later.job.stage, "forming");
  later.disconnect("n1");
  later.pass(14_000);
  assert.equal(later.job.stage, "waiting");
});

test("the state to restore is the newest that all ranks reported when ready, and Restore names it", () => {
  const core = preparing();
  core.form([{ generation: 0, step: 0 }]);
  core.exited("n0", 1);
  core.pass(100);
  core.take();
  core.form([
    { generation: 1, step: 41 },
    { generation: 1, step: 40 },
  ]);
  const { source } = core.lastCommand("restore").value;
  const layout = { dpReplicate: 1, dpShard: 2, sp: 2 };
  const value = { state: { generation: 1n, step: 41n }, layout, places: [], durable: undefined };
  assert.deepEqual(source, { $case: "snapshot", value });
});

/** All ranks of the present generation are ready, with these snapshots, and connected. */
function connect(core: CoreHarness, heldStates: { generation: bigint; step: bigint }[] = []): void {
  const { number, rankNodes } = core.job.generation!;
  const generation = BigInt(number);
  for (const [rank, nodeId] of rankNodes.entries())
    core.say(nodeId, { $case: "rankReady", value: { generation, rank, pid: 1, port: 1, heldStates } });
  for (const [rank, nodeId] of rankNodes.entries())
    core.say(nodeId, { $case: "rankConnected", value: { generation, rank } });
}

test("a rank that restored another state than it was told fails the generation", () => {
  const core = preparing();
  connect(core);
  core.say("n0", {
    $case: "rankRestored",
    value: { generation: 1n, rank: 0, state: { generation: 5n, step: 9n }, parts: [] },
  });
  assert.equal(core.job.stage, "settling");
});

test("a source that did not serve is told with the one that did, also when the restore succeeds", () => {
  const core = preparing();
  connect(core);
  core.take();
  const own = { source: "own snapshot", bytes: 9n, insteadOf: "" };
  const other = { source: "rank 0 on n1", bytes: 5n, insteadOf: "own snapshot: chunk 3 is damaged" };
  const value = { generation: 1n, rank: 0, state: { generation: 0n, step: 0n }, parts: [own, other] };
  core.say("n0", { $case: "rankRestored", value });
  const told = core.effects.flatMap((effect) => (effect.kind === "log" ? [effect.entry.text] : []));
  assert.deepEqual(told, [
    "rank 0 on n0 restored 5 bytes from rank 0 on n1, since others did not serve: own snapshot: chunk 3 is damaged",
  ]);
});

test("a checkpoint that cannot be read gives way to the next, durably", () => {
  const core = running();
  for (const step of [10, 20]) {
    const state = { generation: 1n, step: BigInt(step) };
    core.say("n0", {
      $case: "checkpointCommitted",
      value: { generation: 1n, state, uri: `file:///c/${step}`, bytes: 5n, seconds: 1 },
    });
  }
  core.exited("n0", 0);
  core.pass(100);
  const each = (make: (rank: number) => Parameters<CoreHarness["say"]>[1]) =>
    core.job.generation!.rankNodes.forEach((nodeId, rank) => {
      core.say(nodeId, make(rank));
    });
  each((rank) => ({ $case: "rankReady", value: { generation: 2n, rank, pid: 1, port: 1, heldStates: [] } }));
  each((rank) => ({ $case: "rankConnected", value: { generation: 2n, rank } }));
  assert.match(core.job.reason, /file:\/\/\/c\/20/);
  core.failed("n1", 3, "CHECKPOINT_CORRUPT");
  core.pass(2_000);
  core.form();
  assert.match(core.job.incident!.decisions.at(-1)!.text, /file:\/\/\/c\/10/);
  const record = core.store.get("checkpoints/job-1")!.record;
  assert.ok(record.kind === "checkpoints" && record.entries.find((e) => e.uri === "file:///c/20")?.unusable);
});

test("a user's mistake ends the job at once, with its code", () => {
  const core = preparing();
  const error = {
    code: "DATA_EMPTY",
    message: "Cannot train: no readable sample in /data",
    peer: undefined,
    operation: "",
  };
  core.say("n0", { $case: "prepareRefused", value: { generation: 1n, error } });
  core.pass(100);
  const { outcome } = core.job.record;
  assert.deepEqual([outcome?.phase, outcome?.code], ["FAILED", "DATA_EMPTY"]);
  assert.match(outcome!.reason, /no readable sample in \/data/);
  assert.deepEqual(core.commands().slice(-2), ["n0 release", "n1 release"]);
});

test("a failed save raises an alarm and disturbs nothing", () => {
  const core = running();
  const error = {
    code: "STORAGE_FULL",
    message: "Cannot write shard: no space left",
    peer: undefined,
    operation: "",
  };
  core.say("n0", {
    $case: "checkpointFailed",
    value: { generation: 1n, state: { generation: 1n, step: 1n }, error },
  });
  assert.deepEqual(core.commands(), []);
  const alarm = core.effects.find((e) => e.kind === "log" && e.entry.level === "alarm");
  assert.ok(
    alarm?.kind === "log" && /STORAGE_FULL.*training goes on, nothing is durable yet/.test(alarm.entry.text),
  );
  assert.equal(core.job.stage, "running");
});

/** Sources of three generations in a row, each of which loses a peer in this operation while it restores. */
function sourcesTried(operation: string): string[] {
  const core = running();
  const state = { generation: 1n, step: 10n };
  core.say("n0", {
    $case: "checkpointCommitted",
    value: { generation: 1n, state, uri: "file:///c/10", bytes: 5n, seconds: 1 },
  });
  core.exited("n0", 0);
  const sources: string[] = [];
  for (let attempt = 0; attempt < 3; attempt++) {
    core.pass(5_000);
    connect(core, [{ generation: 1n, step: 41n }]);
    sources.push(core.lastCommand("restore").value.source!.$case);
    core.failed("n0", 0, "COMM_PEER_DIED", 3, operation);
  }
  return sources;
}

test("a member whose memory the others cannot reach, twice in a row, is not waited for: the next source is taken", () => {
  assert.deepEqual(sourcesTried(READ_MEMORY), ["snapshot", "snapshot", "checkpoint"]);
});

test("a peer lost in a collective of a restore, however often, says nothing against what memory holds", () => {
  assert.deepEqual(sourcesTried("all_reduce"), ["snapshot", "snapshot", "snapshot"]);
});

test("a step told after the next generation began is passed on once, until that one has completed a step itself", () => {
  const core = running();
  const before = BigInt(core.job.generation!.number);
  const told = () =>
    core.effects.flatMap((effect) =>
      effect.kind === "step" ? [`${effect.generation}:${effect.step.step}`] : [],
    );
  const late = (number: number) => core.stepDone("n0", number, 0.5, 0, before);
  core.stepDone("n0", 1);
  core.exited("n1", 2);
  core.pass(100);
  assert.equal(core.job.stage, "forming");
  core.take();
  for (const number of [1, 2, 2]) late(number);
  assert.deepEqual(told(), [`${before}:2`]);
  core.form([{ generation: Number(before), step: 2 }]);
  core.stepDone("n0", 3);
  late(4);
  assert.deepEqual(told().slice(-1), [`${core.job.generation!.number}:3`]);
});
