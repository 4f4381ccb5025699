import assert from "node:assert/strict";
import { test } from "node:test";
import type { StateName } from "../../../controller/core/contract.js";
import { membersInput } from "../../../controller/core/members.js";
import { jobView } from "../../../controller/core/views.js";
import type { HeldState, SnapshotPlace } from "../../../gen/goku/v1/agent.pb.js";
import { READ_MEMORY } from "../../../job/errors.js";
import type { LayoutSize } from "../../../job/layout.js";
import { CoreHarness, jobOf, page } from "./harness.js";

const FOUR: LayoutSize = { dp_replicate: 1, dp_shard: 4, sp: 1 };
const at = (generation: number, step: number): StateName => ({ generation, step });
const wire = ({ generation, step }: StateName) => ({ generation: BigInt(generation), step: BigInt(step) });

/** Snapshots of these ranks, in the layout 1x4x1. */
function held(state: StateName, ...ranks: number[]): HeldState[] {
  const layout = { dpReplicate: 1, dpShard: 4, sp: 1 };
  return ranks.map((rank) => ({ state: wire(state), rank, layout }));
}
const text = (places: readonly SnapshotPlace[]) =>
  places.map(({ rank, nodeId, host, port }) => `${rank} ${nodeId} ${host}:${port}`).join(", ");

/** Three nodes of two slots that serve their peers, one job of four ranks on the first two, in PREPARE. */
function preparing(domains: Record<string, string> = {}): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (const [i, nodeId] of ["n0", "n1", "n2"].entries()) {
    const failureDomain = domains[nodeId] ?? "";
    core.hello(nodeId, { host: `host-${i}`, peerPort: 7_000 + i, failureDomain });
  }
  core.submit(jobOf({ layout: FOUR }));
  return core;
}

/** The same, training: every rank holds step 12, and step 10 is in two places. */
function replicated(): CoreHarness {
  const core = preparing();
  core.form();
  for (let step = 1; step <= 12; step++) core.stepDone("n0", step, 0.5, step - 2);
  core.heartbeat("n0", 1, [], [...held(at(1, 12), 0, 1), ...held(at(1, 10), 0, 1, 2, 3)]);
  core.heartbeat("n1", 1, [], [...held(at(1, 12), 2, 3), ...held(at(1, 10), 2, 3, 0, 1)]);
  core.take();
  return core;
}

function prepares(core: CoreHarness): string[] {
  return core.effects.flatMap((effect) => {
    if (effect.kind !== "send" || effect.message.$case !== "prepare") return [];
    const { replicate, replicas, keeps } = effect.message.value;
    return [`${effect.nodeId}: ${replicate}, sends ${text(replicas)}, keeps ${keeps.join(" ")}`];
  });
}

test("Prepare tells each node where its ranks send their state, and what it keeps", () => {
  assert.deepEqual(prepares(preparing()), [
    "n0: true, sends 0 n1 host-1:7001, 1 n1 host-1:7001, keeps 2 3",
    "n1: true, sends 2 n0 host-0:7000, 3 n0 host-0:7000, keeps 0 1",
  ]);
});

test("Prepare sends nothing where no agent can be reached by its peers", () => {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId);
  core.submit(jobOf({ layout: FOUR }));
  assert.deepEqual(prepares(core), ["n0: false, sends , keeps ", "n1: false, sends , keeps "]);
});

test("a repeated Prepare carries the same; a keeper that is found elsewhere is told to its senders", () => {
  const core = preparing();
  const first = prepares(core);
  core.take();
  core.hello("n0", { host: "host-0", peerPort: 7_000 });
  assert.deepEqual(prepares(core), [first[0]]);
  core.take();
  core.hello("n1", { host: "host-1", peerPort: 7_777, incarnation: "n1#2" });
  assert.deepEqual(prepares(core), [
    first[1],
    "n0: true, sends 0 n1 host-1:7777, 1 n1 host-1:7777, keeps 2 3",
  ]);
});

test("how a job is protected is told when a generation is formed, a warning where it is not, once per change", () => {
  const core = preparing({ n0: "rack-1", n1: "rack-1", n2: "rack-2" });
  const told = () =>
    core.take().flatMap((e) => {
      return e.kind === "log" && e.entry.type === "replica" ? [`${e.entry.level}: ${e.entry.text}`] : [];
    });
  const inside =
    "replicas stay inside failure domain rack-1: no member is in another; the loss of the whole domain is not covered";
  assert.deepEqual(told(), [`warning: ${inside}`]);
  assert.equal(jobView(core.state, "job-1", core.nowMs)!.protection, inside);
  core.form();
  core.exited("n1", 2);
  core.pass(100);
  assert.equal(core.job.generation?.number, 2);
  assert.deepEqual(told(), [], "nothing has changed");
  core.form();
  core.leaves("n1", 1_000);
  core.pass(1_100);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.deepEqual(told(), ["info: replicas: 4 ranks keep a copy in another failure domain"]);
});

test("a failure domain that the platform tells counts before the agent's, before and after its hello, from the next generation on", () => {
  const core = new CoreHarness();
  core.lead();
  const nodes = ["n0", "n1", "n2", "n3"];
  const hello = (nodeId: string) =>
    core.hello(nodeId, { host: nodeId, peerPort: 7_000, failureDomain: `machine-${nodeId}` });
  const tell = (nodeId: string, domain: string | null) => core.feed({ kind: "nodeDomain", nodeId, domain });
  tell("n0", "zone-a");
  for (const nodeId of nodes) hello(nodeId);
  tell("n1", "zone-a");
  for (const nodeId of ["n2", "n3"]) tell(nodeId, "zone-b");
  core.submit(jobOf({ layout: { dp_replicate: 1, dp_shard: 8, sp: 1 } }));
  const zone = (nodeId: string) => core.state.nodes.get(nodeId)!.failureDomain;
  const pairs = () => {
    const { keepers, rankNodes } = { ...core.job.generation!, ...core.job.generation!.keepers! };
    return rankNodes.map((nodeId, rank) => [nodeId, keepers[rank]!] as const);
  };
  for (const [from, to] of pairs()) assert.notEqual(zone(from), zone(to), `${from} keeps at ${to}`);
  core.form();
  // One zone for all: told in the middle of a generation, it changes nothing there.
  const before = pairs();
  for (const nodeId of nodes) tell(nodeId, "zone-a");
  assert.deepEqual(pairs(), before);
  hello("n3");
  assert.equal(zone("n3"), "zone-a");
  tell("n3", null);
  hello("n3");
  assert.equal(zone("n3"), "machine-n3");
});

test("a new leader says how a job is protected once it has heard of all members", () => {
  const first = preparing();
  first.form();
  const second = new CoreHarness();
  for (const [key, entry] of first.store) second.store.set(key, entry);
  second.lead("c1");
  const protection = () => jobView(second.state, "job-1", second.nowMs)!.protection;
  second.hello("n0", { jobId: "job-1", generation: 1n, peerPort: 7_000 });
  assert.equal(protection(), null);
  second.hello("n1", { jobId: "job-1", generation: 1n, peerPort: 7_001 });
  assert.equal(protection(), "replicas: 4 ranks keep a copy on another node");
});

test("the newest replicated step is shown for the generation that told it", () => {
  const core = replicated();
  assert.equal(jobView(core.state, "job-1", core.nowMs)!.replicatedStep, 10);
  core.exited("n1", 2);
  core.pass(100);
  core.form([at(1, 12)]);
  assert.equal(jobView(core.state, "job-1", core.nowMs)!.replicatedStep, null);
  assert.deepEqual(core.job.replicated, at(1, 10), "what memory restores is newer: the replica stays known");
});

test("a lost node is not waited for: a spare goes on from the replica, which its ranks read where it is kept", () => {
  const core = replicated();
  core.lose("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(60);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.match(
    core.job.reason,
    /n1 \(ranks 2, 3\) cannot be reached, step 10 of generation 1 is whole .*: they take over at once/,
  );
  core.form();
  assert.match(
    core.job.incident!.decisions.at(-1)!.text,
    /^restore from memory, step 10 of generation 1: ranks 2, 3 from replicas on n0$/,
  );
  const sent = core.effects.flatMap((e) =>
    e.kind === "send" && e.message.$case === "restore" ? [{ to: e.nodeId, ...e.message.value }] : [],
  );
  const places = sent.map(({ to, source }) => {
    assert.ok(source?.$case === "snapshot");
    assert.deepEqual(source.value.state, wire(at(1, 10)));
    return `${to}: ${text(source.value.places)}`;
  });
  assert.deepEqual(places, ["n0: ", "n2: 2 n0 host-0:7000, 3 n0 host-0:7000"]);
});

test("a node whose agent ended is waited for as long as the steps take that only its memory holds, then a spare goes on", () => {
  const core = replicated();
  core.disconnect("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(60);
  assert.match(
    core.job.reason,
    /^waits for n1 \(ranks 2, 3\), whose agent ended, at most 1\.0 s: so long would the 2 steps take/,
  );
  const judgedMs = core.job.waitSinceMs;
  core.pass(judgedMs + 999 - core.nowMs);
  assert.equal(core.job.generation?.number, 1);
  core.pass(1);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.match(core.job.reason, /step 10 of generation 1 is whole .*: they take over at once/);
});

test("a node whose agent starts again in that time goes on from its memory: nothing is lost, a spare is not touched", () => {
  const core = replicated();
  core.disconnect("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(900);
  const heldStates = [...held(at(1, 12), 2, 3), ...held(at(1, 10), 2, 3, 0, 1)];
  const more = { incarnation: "n1#2", jobId: "job-1", generation: 1n, peerPort: 7_001, heldStates };
  core.hello("n1", more);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n1", "n1"]);
  core.form([at(1, 12)]);
  assert.match(core.job.incident!.decisions.at(-1)!.text, /^restore from memory, step 12 of generation 1/);
});

test("a machine that starts again has no memory: then a replica is the newest, and nobody waits for more", () => {
  const core = replicated();
  core.disconnect("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(500);
  core.hello("n1", { incarnation: "n1#2", peerPort: 7_001 });
  assert.equal(core.job.generation?.number, 2);
  core.form([at(1, 10)]);
  assert.match(core.job.incident!.decisions.at(-1)!.text, /^restore from memory, step 10 of generation 1/);
});

/** The same; then rank 0 dies, and as the ranks connect again those of n1 have no answer from n0. */
function cut(): CoreHarness {
  const core = replicated();
  core.exited("n0", 0);
  core.pass(60);
  core.say("n0", {
    $case: "rankReady",
    value: { generation: 2n, rank: 0, pid: 1, port: 1, heldStates: [] },
  });
  core.failed("n1", 2, "COMM_TIMEOUT", 0, "connect");
  core.pass(1_000);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  return core;
}

test("members that cannot connect: a spare takes the place of one at once, and reads the newest state where it still lies", () => {
  const core = cut();
  assert.match(core.job.reason, /without n1 \(it and n0 cannot connect to each other\)/);
  assert.equal(core.job.blame.get("n1"), undefined, "whose fault it is nobody can tell");
  core.form();
  const { places, state } = core.effects
    .flatMap((e) =>
      e.kind === "send" && e.nodeId === "n2" && e.message.$case === "restore" ? [e.message.value] : [],
    )
    .flatMap(({ source }) => (source?.$case === "snapshot" ? [source.value] : []))[0]!;
  assert.deepEqual(state, wire(at(1, 12)));
  assert.equal(text(places), "2 n1 host-1:7001, 3 n1 host-1:7001");
  assert.match(core.job.incident!.decisions.at(-1)!.text, /ranks 2, 3 from snapshots on n1$/);
});

/** Step 12 of ranks 2 and 3 lies on n1 alone, which falls silent; a step takes so many seconds. */
function silent(stepSeconds: number): CoreHarness {
  const core = preparing();
  core.form();
  for (let step = 1; step <= 12; step++) core.stepDone("n0", step, stepSeconds, step > 5 ? 5 : 0);
  core.heartbeat("n0", 1, [], [...held(at(1, 12), 0, 1), ...held(at(1, 5), 0, 1, 2, 3)]);
  core.heartbeat("n1", 1, [], [...held(at(1, 12), 2, 3), ...held(at(1, 5), 2, 3, 0, 1)]);
  core.lose("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(1_100);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  core.take();
  core.form([]);
  return core;
}

test("a node that only the controller may not reach is read from where that is worth a try, and not where it is not", () => {
  const restored = (core: CoreHarness) => core.job.incident!.decisions.at(-1)!.text;
  assert.match(
    restored(silent(2)),
    /^restore from memory, step 12 of generation 1: ranks 2, 3 from snapshots on n1$/,
  );
  assert.match(
    restored(silent(1)),
    /^restore from memory, step 5 of generation 1: ranks 2, 3 from replicas on n0$/,
  );
});

test("a node out of sight that does not answer the members either is not tried again", () => {
  const core = silent(2);
  core.failed("n2", 2, "COMM_PEER_DIED", undefined, READ_MEMORY);
  core.pass(2_000);
  assert.equal(core.job.blame.get("n2"), undefined, "the reader is not at fault");
  core.form([]);
  assert.match(
    core.job.incident!.decisions.at(-1)!.text,
    /step 5 of generation 1: ranks 2, 3 from replicas on n0$/,
  );
  assert.equal(core.job.excludedSnapshots.size, 0, "the state may be had when the node is back");
});

test("a node that has lost its place keeps what it holds until the others have done a step, then it is released", () => {
  const core = cut();
  core.form();
  assert.ok(!core.commands().includes("n1 release"), "others read there");
  core.heartbeat("n1", 2, []);
  core.hello("n1", { jobId: "job-1", generation: 2n, peerPort: 7_001, heldStates: held(at(1, 12), 2, 3) });
  assert.ok(!core.commands().includes("n1 release"), "it came back in between");
  core.stepDone("n0", 13);
  assert.ok(core.commands().includes("n1 release"));
});

test("a node that is quarantined, leaves or holds nothing is released as soon as it has lost its place", () => {
  for (const [name, spoil] of [
    ["leaves", (core: CoreHarness) => core.leaves("n1")],
    ["holds nothing", (core: CoreHarness) => core.heartbeat("n1", 1, [], [])],
  ] as const) {
    const core = replicated();
    spoil(core);
    if (name === "leaves") core.ended(13);
    else {
      core.exited("n0", 0);
      core.pass(60);
      core.failed("n1", 2, "COMM_TIMEOUT", 0, "connect");
      core.pass(1_000);
    }
    assert.ok(core.commands().includes("n1 release"), name);
  }
});

test("members that cannot connect try again where nothing else is free, and once they do nothing is held against them", () => {
  const core = replicated();
  core.disconnect("n2");
  core.exited("n0", 0);
  core.pass(60);
  core.failed("n1", 2, "COMM_TIMEOUT", 0, "connect");
  core.pass(1_000);
  assert.ok(core.job.unconnected.has("n1"));
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n1", "n1"]);
  assert.equal(core.job.generation?.number, 3);
  core.form([at(1, 12)]);
  assert.equal(core.job.unconnected.size, 0);
});

test("what was replicated once says nothing any more where nothing is sent", () => {
  const core = replicated();
  const input = () => membersInput({ state: core.state, nowMs: core.nowMs, effects: [] }, core.job);
  assert.deepEqual(input().replicated, at(1, 10));
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId, { jobId: "job-1", incarnation: `${nodeId}#2` });
  core.pass(100);
  assert.equal(core.job.generation?.number, 2);
  core.form([at(1, 12)]);
  assert.deepEqual(core.job.replicated, at(1, 10));
  assert.equal(input().replicated, null);
});

test("a job that waits for a lost node looks again when the others tell more of what they hold", () => {
  const core = replicated();
  core.stepDone("n0", 13, 0.5, 11); // what the heartbeats have not told yet
  core.lose("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(60);
  assert.match(core.job.reason, /^waits for n1 \(ranks 2, 3\)/);
  core.heartbeat("n0", 1, [], [...held(at(1, 13), 0, 1), ...held(at(1, 11), 0, 1, 2, 3)]);
  core.pass(250);
  assert.equal(core.job.generation?.number, 2);
});

test("inventories told while a generation forms count, and a repeated Restore names the same places", () => {
  const core = replicated();
  core.lose("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(60);
  core.heartbeat("n0", 2, [], [...held(at(1, 12), 0, 1), ...held(at(1, 11), 0, 1, 2, 3)]);
  const generation = core.job.generation!;
  const each = (report: "rankReady" | "rankConnected") => {
    for (const [rank, nodeId] of generation.rankNodes.entries()) {
      const value = { generation: 2n, rank, pid: 1, port: 1, heldStates: [] };
      core.say(nodeId, { $case: report, value });
    }
  };
  each("rankReady");
  each("rankConnected");
  const first = core.lastCommand("restore").value;
  assert.ok(first.source?.$case === "snapshot");
  assert.deepEqual(first.source.value.state, wire(at(1, 11)));
  core.take();
  // Nothing writes them until Run; what a node tells late must not change what the others were told.
  core.heartbeat("n0", 2, [], held(at(1, 12), 0, 1));
  core.hello("n2", {
    host: "host-2",
    peerPort: 7_002,
    jobId: "job-1",
    generation: 2n,
    ranks: [page(2), page(3)],
  });
  assert.deepEqual(core.lastCommand("restore").value, first);
});

test("a state that a node turns out not to have is passed over, unless a member ended meanwhile", () => {
  for (const ended of [false, true]) {
    const core = replicated();
    core.lose("n1");
    core.failed("n0", 0, "COMM_PEER_DIED", 2);
    core.pass(60);
    const generation = core.job.generation!;
    for (const report of ["rankReady", "rankConnected"] as const) {
      for (const [rank, nodeId] of generation.rankNodes.entries()) {
        const value = { generation: 2n, rank, pid: 1, port: 1, heldStates: [] };
        core.say(nodeId, { $case: report, value });
      }
    }
    if (ended) core.exited("n0", 1);
    core.failed("n2", 2, "SNAPSHOT_MISSING");
    core.pass(60);
    assert.equal(core.job.excludedSnapshots.has("1-10"), !ended);
  }
});
