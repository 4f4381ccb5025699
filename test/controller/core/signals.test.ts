import assert from "node:assert/strict";
import { test } from "node:test";
import { nodeViews } from "../../../controller/core/views.js";
import type { CounterRate, NodeSignal } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness, FOUR, jobOf, page, programJobOf } from "./harness.js";

const XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.";

function told(kind: string, more: Partial<NodeSignal> = {}): NodeSignal {
  return { kind, rank: undefined, device: "", text: kind, count: 1, atMs: 1n, ...more };
}

function say(core: CoreHarness, nodeId: string, ...signals: NodeSignal[]): void {
  const generation = BigInt(core.job?.generation?.number ?? 0);
  core.say(nodeId, { $case: "nodeSignals", value: { generation, signals } });
}

const logged = (core: CoreHarness) =>
  core.effects.flatMap((e) => (e.kind === "log" ? [`${e.entry.level}: ${e.entry.text}`] : []));
const observed = (core: CoreHarness) =>
  core.effects.flatMap((e) =>
    e.kind === "observe" && e.metric === "goku_signals_total" ? [`${e.labels.class} ${e.labels.cause}`] : [],
  );
const view = (core: CoreHarness, nodeId: string) =>
  nodeViews(core.state, core.nowMs).find((node) => node.nodeId === nodeId)!;

const passed = {
  name: "memory",
  ok: true,
  value: 1,
  unit: "MiB",
  detail: "",
  seconds: 0.1,
  device: undefined,
};

test("signals: a GPU that fell off the bus: the node is named and quarantined, the job goes on on a spare", () => {
  const core = CoreHarness.running();
  core.stepDone("n0", 1);
  core.take();
  say(core, "n1", told("xid.79", { device: "0000:3b:00", text: XID_79 }));
  assert.deepEqual(observed(core), ["gpu_fault machine"]);
  assert.match(
    core.state.quarantine.get("n1")!.reason,
    /^the kernel's log, xid\.79 0000:3b:00: NVRM: Xid .*off the bus/,
  );
  assert.deepEqual(core.commands(), ["n0 abort", "n1 abort"]);
  core.pass(1_000);
  const [incident] = core.job.incidents;
  assert.deepEqual([incident!.code, incident!.nodeId, incident!.rank], ["HARDWARE_FAULT", "n1", null]);
  assert.match(incident!.what, /^n1: the kernel's log, xid\.79/);
  assert.deepEqual([...new Set(core.job.generation!.rankNodes)].sort(), ["n0", "n2"]);
  assert.match(view(core, "n1").unusable!, /^quarantined: the kernel's log, xid\.79/);
});

test("signals: the same sign told again, by a repeat or many times, is one sign", () => {
  const core = CoreHarness.running();
  const xid = told("xid.13", { device: "0000:3b:00", atMs: 5n });
  say(core, "n1", xid);
  say(core, "n1", xid);
  assert.equal(observed(core).length, 1);
  say(core, "n1", { ...xid, atMs: 6n, count: 2 });
  say(core, "n1", { ...xid, device: "0000:5e:00" });
  assert.deepEqual(
    view(core, "n1").signs.map(({ device, count }) => [device, count]),
    [
      ["0000:5e:00", 1],
      ["0000:3b:00", 2],
    ],
  );
  assert.equal(core.job.stage, "running", "an application's Xid ends nothing");
  const many = Array.from({ length: 40 }, (_, i) => told("kernel.disk_error", { device: `d${i}` }));
  say(core, "n1", ...many);
  assert.equal(view(core, "n1").signs.length, 16);
});

test("signals: a kind that this controller does not know is passed over; a malformed one is refused", () => {
  const core = CoreHarness.running();
  core.take();
  say(core, "n1", told("xid.9999"));
  assert.deepEqual([observed(core), view(core, "n1").signs], [[], []]);
  say(core, "n1", told("xid.79", { count: 0 }));
  assert.equal(core.state.quarantine.size, 0);
  const refused = core.effects.filter((e) => e.kind === "observe" && e.labels.reason === "malformed");
  assert.equal(refused.length, 1);
});

test("signals: what a line holds is shown to people without its control characters", () => {
  const core = CoreHarness.running();
  say(core, "n1", told("kernel.nfs", { device: "a\u001b[2J", text: "x\ny\u0007".repeat(200) }));
  const [sign] = view(core, "n1").signs;
  assert.equal(sign!.device, "a [2J");
  assert.match(sign!.text, /^(x y )+$/);
  assert.equal(sign!.text.length, 300);
});

test("signals: a quarantine ends when the machine has booted anew and passes its self-checks, or by a person", () => {
  const core = new CoreHarness({ selfCheckMs: 300 });
  core.lead();
  core.hello("n0", { bootId: "boot-1" });
  say(core, "n0", told("xid.79"));
  assert.equal(core.state.quarantine.get("n0")?.untilMs, null);
  core.hello("n0", { incarnation: "n0#2", bootId: "boot-1" });
  assert.equal(core.state.quarantine.get("n0")?.untilMs, null, "the agent was started again, nothing more");
  core.lead(); // what is durable is enough
  core.take();
  core.hello("n0", { incarnation: "n0#3", bootId: "boot-2" });
  const { checkId } = core.lastCommand("selfCheck").value;
  assert.equal(core.state.quarantine.has("n0"), true, "not before it has passed");
  core.say("n0", { $case: "selfCheckReport", value: { checkId, results: [passed], busy: "" } });
  assert.equal(core.state.quarantine.has("n0"), false);

  say(core, "n0", told("xid.79", { atMs: 2n }));
  core.feed({ kind: "quarantineLifted", requestId: "r", nodeId: "n0" });
  assert.equal(core.state.quarantine.has("n0"), false);
});

test("signals: a machine that wears out gives its ranks to a free node at the next vote, and is avoided", () => {
  const core = CoreHarness.running();
  core.stepDone("n0", 1);
  core.take();
  say(core, "n1", told("xid.63", { device: "0000:3b:00" }));
  assert.ok(core.commands().includes("n0 requestStop"), `${core.commands()}`);
  assert.equal(core.state.quarantine.size, 0);
  core.ended(2);
  assert.deepEqual([...new Set(core.job.generation!.rankNodes)].sort(), ["n0", "n2"]);
  assert.deepEqual([core.job.incident!.code, core.job.incident!.nodeId], ["HARDWARE_FAULT", "n1"]);
});

test("signals: where no node is free, one that wears out keeps its ranks", () => {
  const core = CoreHarness.running(["n0", "n1"]);
  core.take();
  say(core, "n1", told("counter.memory_uncorrectable", { device: "mc0" }));
  assert.deepEqual(core.commands(), []);
  assert.equal(core.job.stage, "running");
  assert.match(core.job.avoided.get("n1")!.reason, /memory_uncorrectable mc0/);
});

test("signals: a network card that went down: the node is examined at once where it is free, else when it is", () => {
  const core = new CoreHarness({ selfCheckMs: 300 });
  core.lead();
  const pass = (nodeId: string) => {
    const { checkId } = core.lastCommand("selfCheck").value;
    core.say(nodeId, { $case: "selfCheckReport", value: { checkId, results: [passed], busy: "" } });
  };
  for (const nodeId of ["n0", "n1", "n2"]) {
    core.hello(nodeId);
    pass(nodeId);
  }
  core.submit(jobOf({ layout: FOUR }));
  core.pass(2_000);
  core.form();
  core.take();
  const [member] = core.job.generation!.rankNodes;
  const free = ["n0", "n1", "n2"].find((nodeId) => !core.job.generation!.nodeRanks.has(nodeId))!;
  say(core, member!, told("counter.link_down", { device: "eth0" }));
  assert.deepEqual([core.commands(), core.job.stage], [[], "running"]);
  assert.equal(core.state.health.get(member!)!.state, "due");
  say(core, free, told("counter.link_down", { device: "eth0" }));
  assert.deepEqual(core.commands(), [`${free} selfCheck`]);
  assert.match(logged(core).join("\n"), /^alarm: n\d: its counters, counter\.link_down eth0/m);
});

test("signals: a rank that wrote of an ECC error and ended: hardware, its node gives way to a spare", () => {
  const core = CoreHarness.running();
  const text = "RuntimeError: CUDA error: uncorrectable ECC error encountered";
  say(core, "n1", told("log.cuda_ecc", { rank: 2, text }));
  assert.equal(core.job.stage, "running", "words alone end nothing");
  core.exited("n1", 2, "SIGABRT");
  core.pass(1_000);
  const [incident] = core.job.incidents;
  assert.deepEqual([incident!.code, incident!.rank, incident!.nodeId], ["HARDWARE_FAULT", 2, "n1"]);
  assert.match(
    incident!.what,
    /^rank 2 on n1 ended by SIGABRT: it wrote "RuntimeError: CUDA error: uncorrectable ECC/,
  );
  assert.match(
    incident!.evidence.map((line) => line.text).join("\n"),
    /rank 2 on n1: its output, log\.cuda_ecc: /,
  );
  assert.deepEqual([...new Set(core.job.generation!.rankNodes)].sort(), ["n0", "n2"]);
});

test("signals: a rank that ended by an error of its own is told so, and its node is not blamed however often", () => {
  const core = CoreHarness.running();
  for (let time = 1; time <= 3; time++) {
    say(core, "n1", told("log.python_error", { rank: 2, text: "ValueError: bad", atMs: BigInt(time) }));
    core.exited("n1", 2, "");
    core.pass(5_000);
    core.form();
  }
  const { incidents, blame, generation } = core.job;
  assert.equal(incidents[0]!.code, "RANK_DIED");
  assert.match(incidents[0]!.what, /^rank 2 on n1 exited with code -1: it wrote "ValueError: bad"$/);
  assert.deepEqual([...blame], []);
  assert.ok(generation!.nodeRanks.has("n1"), "it keeps its place");
});

test("signals: a rank that was killed without a word is laid to its node, as ever", () => {
  const core = CoreHarness.running();
  say(core, "n1", told("log.python_error", { rank: 3, text: "ValueError: another rank's" }));
  core.exited("n1", 2);
  core.pass(1_000);
  assert.deepEqual([...core.job.blame], [["n1", 1]]);
  assert.match(core.job.incidents[0]!.what, /^rank 2 on n1 ended by SIGKILL$/);
  assert.match(
    core.job.incidents[0]!.evidence.map((line) => line.text).join("\n"),
    /another rank's/,
    "evidence",
  );
});

test("signals: a rank that the kernel killed for memory is told apart from one that anybody killed", () => {
  const core = CoreHarness.running();
  say(core, "n1", told("kernel.oom_kill", { rank: 2, text: "Out of memory: Killed process 12 (node)" }));
  core.exited("n1", 2);
  core.pass(1_000);
  const [incident] = core.job.incidents;
  assert.deepEqual([incident!.code, incident!.rank], ["NODE_OUT_OF_MEMORY", 2]);
  assert.match(incident!.what, /ended by SIGKILL: the kernel killed a process because memory was used up$/);
});

test("signals: what is read late joins the incident of its node while that is open", () => {
  const core = CoreHarness.running(["n0", "n1"]);
  core.exited("n1", 2);
  core.pass(1_000);
  assert.notEqual(core.job.incident, null);
  say(core, "n1", told("xid.31", { text: "MMU Fault" }));
  say(core, "n0", told("xid.31", { text: "somebody else's" }));
  const texts = core.job.incident!.evidence.map((line) => line.text).join("\n");
  assert.match(texts, /n1: the kernel's log, xid\.31: MMU Fault/);
  assert.doesNotMatch(texts, /somebody else's/);
});

/** Pages of a node's ranks, of which those named have stood still since second 100. */
function pages(nodeId: string, core: CoreHarness, still: readonly number[], second: number) {
  const ranks = core.job.generation!.nodeRanks.get(nodeId) ?? [];
  return ranks.map((rank) => page(rank, { microStep: still.includes(rank) ? 100 : second }));
}

test("signals: a rank that stands still after it wrote of broken hardware is not waited for any longer", () => {
  const patient = jobOf({ layout: FOUR });
  patient.recovery.stall_seconds = 600;
  const core = CoreHarness.running(["n0", "n1", "n2"], patient);
  let second = 200;
  const beat = (seconds: number, still: readonly number[]) => {
    for (let i = 0; i < seconds && core.job.stage === "running"; i++)
      core.beat(1_000, (nodeId) => pages(nodeId, core, still, ++second));
  };
  beat(3, []);
  say(core, "n1", told("log.cuda_ecc", { rank: 2, text: "uncorrectable ECC error encountered" }));
  beat(20, []);
  assert.equal(core.job.stage, "running", "it went on");
  say(
    core,
    "n1",
    told("log.cuda_ecc", { rank: 2, atMs: 2n, count: 2, text: "uncorrectable ECC error encountered" }),
  );
  beat(20, [2]);
  const [incident] = core.job.incidents;
  assert.deepEqual([incident?.code, incident?.rank, incident?.nodeId], ["HARDWARE_FAULT", 2, "n1"]);
  assert.match(
    incident!.what,
    /^rank 2 on n1 stands still after it wrote: uncorrectable ECC error encountered/,
  );
  core.pass(1_000);
  assert.equal(core.lastCommand("killRank").value.rank, 2);
});

test("signals: how long a rank may stand still after such words follows the pace of the last steps, not that of an hour ago", () => {
  const core = CoreHarness.running(["n0", "n1", "n2"]);
  core.job.stepTimesMs.push(...Array(20).fill(1_000), 6_000, 6_000, 6_000);
  let second = 200;
  const beat = (seconds: number, still: readonly number[]) => {
    for (let i = 0; i < seconds && core.job.stage === "running"; i++)
      core.beat(1_000, (nodeId) => pages(nodeId, core, still, ++second));
  };
  say(core, "n1", told("log.cuda_ecc", { rank: 2, text: "uncorrectable ECC error encountered" }));
  beat(9, [2]);
  assert.equal(core.job.stage, "running", "it may wait for a peer that has become slow");
  beat(9, [2]);
  assert.equal(core.job.incidents[0]?.rank, 2);
});

test("signals: of a program that sends no heartbeats nobody knows whether it stands still", () => {
  const core = CoreHarness.running(["n0", "n1", "n2"], programJobOf({ layout: FOUR }));
  say(core, "n1", told("log.cuda_ecc", { rank: 2, text: "uncorrectable ECC error encountered" }));
  core.beat(60_000, (nodeId) =>
    (core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) =>
      page(rank, { microStep: 0, phase: "program" }),
    ),
  );
  assert.deepEqual([core.job.stage, core.job.incidents], ["running", []]);
});

test("signals: what every machine counts alike is told, and suspects none", () => {
  const rates = (perMinute: number): CounterRate[] => [{ counter: "net_errors", perMinute }];
  const run = (others: number) => {
    const core = new CoreHarness({ selfCheckMs: 300 });
    core.lead();
    for (const [i, nodeId] of ["n0", "n1", "n2"].entries()) {
      core.hello(nodeId, { bootId: `boot-${i}` });
      const counterRates = rates(i === 0 ? 900 : others);
      const rest = {
        generation: 0n,
        ranks: [],
        heldStates: [],
        heldStatesChanged: false,
        term: 0n,
        commandId: 0n,
      };
      core.say(nodeId, { $case: "heartbeat", value: { ...rest, counterRates } });
    }
    core.take();
    say(core, "n0", told("counter.net_errors", { device: "eth0", text: "grew by 900 in a minute" }));
    return core;
  };
  const alone = run(3);
  assert.match(logged(alone).join("\n"), /^alarm: n0: its counters, counter\.net_errors eth0/m);
  assert.equal(view(alone, "n0").signs.length, 1);
  const alike = run(400);
  assert.match(logged(alike).join("\n"), /^info: n0: .*other machines count alike/m);
  assert.deepEqual(view(alike, "n0").signs, []);
});

test("signals: what an agent cannot watch is shown with its node", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0", { unwatched: ["the kernel's log: EPERM"] });
  assert.deepEqual(view(core, "n0").unwatched, ["the kernel's log: EPERM"]);
});
