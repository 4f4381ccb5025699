import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { pino } from "pino";
import { openCheckpoint } from "../../../checkpoint/load.js";
import { readSnapshotHeader } from "../../../checkpoint/snapshot.js";
import type { RankReady, RankRestored, Restore, StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import type { StateName } from "../../../gen/goku/v1/common.pb.js";
import type { Job } from "../../../job/job.js";
import { NO_ACCESS } from "../../../security/client_access.js";
import { startTicks } from "../../../worker/agent/process_records.js";
import { type AgentOptions, type RunningAgent, runAgent } from "../../../worker/agent/run_agent.js";
import { testJob } from "../../faults/cluster.js";
import { until } from "../../support/until.js";
import { type Command, ScriptedController } from "./scripted_controller.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-agent-"));
const memory = mkdtempSync("/dev/shm/goku-agent-");
after(() => {
  rmSync(scratch, { recursive: true, force: true });
  rmSync(memory, { recursive: true, force: true });
});

/** One node with two slots under a controller that says what the test says; everything ends with the test. */
async function withAgent(
  name: string,
  body: (controller: ScriptedController, start: () => Promise<RunningAgent>) => Promise<void>,
  log = pino({ level: process.env.GOKU_LOG_LEVEL ?? "silent" }),
): Promise<void> {
  const controller = await ScriptedController.start();
  const agents: RunningAgent[] = [];
  const options: AgentOptions = {
    controllers: [controller.address],
    node: name,
    slots: 2,
    host: "127.0.0.1",
    failureDomain: "",
    stateDir: memory,
    logDir: scratch,
    metricsHost: "127.0.0.1",
    metricsPort: 0,
    peakTflops: null,
    hostRoot: "/no/such/root",
    graceMs: 2_000,
    access: NO_ACCESS,
  };
  try {
    await body(controller, async () => {
      const agent = await runAgent(options, log);
      agents.push(agent);
      return agent;
    });
  } finally {
    for (const agent of agents) await agent.close("the end of the test");
    controller.close();
  }
}

const LAYOUT = { dpReplicate: 1, dpShard: 2, sp: 1 };

function prepare(job: Job, generation: bigint, ranks = [0, 1], layout = LAYOUT): Command {
  const plain = job as unknown as { [key: string]: unknown };
  const alone = { replicate: false, replicas: [], keeps: [], peerSecret: "s", restarts: 0, stepHighest: 0n };
  const recentSteps: StepCompleted[] = [];
  return {
    $case: "prepare",
    value: { generation, jobId: "job-1", job: plain, layout, ranks, recentSteps, device: "cpu", ...alone },
  };
}

/** PREPARE to RUN on one node; returns the pids by rank. */
async function form(
  controller: ScriptedController,
  node: string,
  job: Job,
  generation: bigint,
): Promise<number[]> {
  const { ready, common } = await connect(controller, node, generation, prepare(job, generation));
  const newest = common.sort((a, b) => Number(b.step - a.step))[0];
  const source: Restore["source"] = newest
    ? { $case: "snapshot", value: { state: newest, layout: LAYOUT, places: [], durable: undefined } }
    : { $case: "initial", value: true };
  await restore(controller, node, generation, source);
  controller.send(node, { $case: "run", value: { generation } });
  return ready.map((one) => one.pid);
}

/** PREPARE and CONNECT of two ranks; also which states both hold. */
async function connect(
  controller: ScriptedController,
  node: string,
  generation: bigint,
  command: Command,
): Promise<{ ready: RankReady[]; common: StateName[] }> {
  controller.send(node, command);
  const ofThis = (value: { generation: bigint }) => value.generation === generation;
  const ready = [
    await controller.next(node, "rankReady", ofThis),
    await controller.next(node, "rankReady", ofThis),
  ].sort((a, b) => a.rank - b.rank);
  const of = (field: "rank" | "port" | "pid") => ready.map((one) => one[field]);
  const endpoints = {
    nodeId: node,
    host: "127.0.0.1",
    ranks: of("rank"),
    ports: of("port"),
    pids: of("pid"),
  };
  controller.send(node, { $case: "connect", value: { generation, nodes: [endpoints], proveStorage: false } });
  for (const _ of ready) await controller.next(node, "rankConnected", ofThis);
  const [first, second] = ready.map((one) => one.heldStates);
  const common = first!.filter((a) =>
    second!.some((b) => a.step === b.step && a.generation === b.generation),
  );
  return { ready, common };
}

/** RESTORE of two ranks; what they say. */
async function restore(
  controller: ScriptedController,
  node: string,
  generation: bigint,
  source: Restore["source"],
): Promise<RankRestored[]> {
  const ofThis = (value: { generation: bigint }) => value.generation === generation;
  controller.send(node, { $case: "restore", value: { generation, source, rollBacks: [] } });
  return [
    await controller.next(node, "rankRestored", ofThis),
    await controller.next(node, "rankRestored", ofThis),
  ];
}

async function losses(
  controller: ScriptedController,
  node: string,
  steps: number,
  first = 1,
): Promise<number[]> {
  const values: number[] = [];
  for (let step = first; step <= steps; step++) {
    values.push((await controller.next(node, "stepCompleted", (value) => value.step === BigInt(step))).loss!);
  }
  return values;
}

const OVERRIDES = ["layout.dp_shard=2", "layout.sp=1", "train.steps=12", "checkpoint.every_steps=5"];
let undisturbed: number[] = [];

test("agent: a run from Prepare to Release: steps, commits and ends are told, memory is freed", async () => {
  const node = "node-plain";
  const job = await testJob(path.join(scratch, "plain"), OVERRIDES);
  await withAgent(node, async (controller, start) => {
    await start();
    const hello = await controller.hello(node);
    assert.deepEqual([hello.jobId, hello.generation, hello.slots], ["", 0n, 2]);
    await form(controller, node, job, 1n);
    undisturbed = await losses(controller, node, 12);
    assert.equal(new Set(undisturbed).size, 12);
    const finished = [
      await controller.next(node, "rankFinished"),
      await controller.next(node, "rankFinished"),
    ];
    assert.deepEqual(finished.map(({ rank }) => rank).sort(), [0, 1]);
    assert.deepEqual(finished[0]!.state, { generation: 1n, step: 12n });
    for (const step of [5n, 10n, 12n]) {
      const { uri } = await controller.next(
        node,
        "checkpointCommitted",
        (value) => value.state!.step === step,
      );
      assert.ok(uri.endsWith(`checkpoint-${step}`));
    }
    const kept = readdirSync(path.join(scratch, "plain", "run")).filter((name) =>
      name.startsWith("checkpoint"),
    );
    assert.deepEqual(kept.sort(), ["checkpoint-10", "checkpoint-12"], "keep_last 2");
    controller.send(node, { $case: "release", value: { jobId: "job-1" } });
    await controller.next(node, "nodeReleased");
    assert.deepEqual(readdirSync(path.join(memory, node, "snapshots")), []);
  });
  assert.equal(
    existsSync(path.join(memory, node)),
    false,
    "an agent that holds nothing leaves nothing behind",
  );
});

test("agent: a killed rank is told at once, its place goes to a spare, the survivor's process stays", async () => {
  const node = "node-killed";
  const job = await testJob(path.join(scratch, "killed"), OVERRIDES);
  await withAgent(node, async (controller, start) => {
    await start();
    await controller.hello(node);
    const pids = await form(controller, node, job, 1n);
    const before = await losses(controller, node, 4);
    process.kill(pids[1]!, "SIGKILL");
    const exited = await controller.next(node, "rankExited");
    assert.deepEqual([exited.rank, exited.pid, exited.signal, exited.exitCode], [1, pids[1], "SIGKILL", -1]);
    const failed = await controller.next(node, "rankFailed");
    assert.equal(failed.rank, 0);
    assert.ok(["COMM_ABORTED", "COMM_PEER_DIED"].includes(failed.error!.code), failed.error!.code);
    assert.equal(failed.error!.peer, 1, "the survivor names the dead rank");
    const again = await form(controller, node, job, 2n);
    assert.equal(again[0], pids[0], "the survivor's process");
    assert.notEqual(startTicks(again[1]!), null);
    const told = controller
      .untaken("stepCompleted")
      .map((report) => report.value as { loss: number; step: bigint });
    for (const { loss, step } of told) before[Number(step) - 1] = loss;
    for (let step = 0n; step < 12n; ) {
      const next = await controller.next(node, "stepCompleted", (value) => value.generation === 2n);
      before[Number(next.step) - 1] = next.loss!;
      step = next.step;
    }
    for (const [i, loss] of before.entries()) assert.equal(loss, undisturbed[i], `loss of step ${i + 1}`);
    assert.equal(before.length, 12);
  });
});

test("agent: asked for its progress, it tells it at once, however far away the next heartbeat is", async () => {
  const node = "node-asked";
  await withAgent(node, async (controller, start) => {
    const { port } = controller;
    controller.close();
    const slow = await ScriptedController.start({ port, heartbeatMs: 3_600_000 });
    try {
      await start();
      await slow.hello(node);
      await slow.next(node, "heartbeat");
      const id = slow.send(node, { $case: "tellProgress", value: { generation: 0n } });
      const told = await slow.next(node, "heartbeat");
      assert.deepEqual([told.term, told.commandId], [slow.term, id]);
      slow.send(node, { $case: "tellProgress", value: { generation: 7n } }); // not the one that is prepared here
      const last = slow.send(node, { $case: "tellProgress", value: { generation: 0n } });
      assert.equal((await slow.next(node, "heartbeat")).commandId, last);
      assert.deepEqual(slow.untaken("heartbeat"), []);
    } finally {
      slow.close();
    }
  });
});

test("agent: stale and repeated commands change nothing, and training goes on while the controller is away", async () => {
  const node = "node-away";
  const job = await testJob(path.join(scratch, "away"), OVERRIDES);
  await withAgent(node, async (controller, start) => {
    await start();
    await controller.hello(node);
    const pids = await form(controller, node, job, 5n);
    const kill: Command = { $case: "killRank", value: { generation: 5n, rank: 0, reason: "a test" } };
    controller.send(node, kill, { term: 0n, commandId: 1_000n });
    controller.send(node, kill, { commandId: 1n });
    controller.send(node, { ...kill, value: { ...kill.value, generation: 4n } } as Command);
    controller.send(node, prepare(job, 3n));
    controller.send(node, { $case: "release", value: { jobId: "job-0" } }); // its node before; it works for job-1 now
    await controller.next(node, "nodeReleased", ({ jobId }) => jobId === "job-0");
    await losses(controller, node, 2);
    const { port } = controller;
    controller.close();
    const successor = await ScriptedController.start({ port, term: 2n });
    try {
      const hello = await successor.hello(node);
      assert.deepEqual([hello.jobId, hello.generation, hello.term], ["job-1", 5n, 1n]);
      assert.deepEqual(hello.ranks.map(({ rank, pid }) => [rank, pid]).sort(), [
        [0, pids[0]],
        [1, pids[1]],
      ]);
      for (const kind of ["rankReady", "rankConnected", "rankRestored"] as const) {
        const repeated = [await successor.next(node, kind), await successor.next(node, kind)];
        assert.deepEqual(repeated.map(({ rank }) => rank).sort(), [0, 1], kind);
      }
      for (let step = 3; step <= 12; step++) {
        const { loss } = await successor.next(node, "stepCompleted", (value) => value.step === BigInt(step));
        assert.equal(loss, undisturbed[step - 1], `loss of step ${step}`);
      }
      await successor.next(node, "rankFinished");
    } finally {
      successor.close();
    }
  });
});

test("agent: another job takes the node: the next controller hears nothing of the last one's checkpoints", async () => {
  const node = "node-passed-on";
  const job = await testJob(path.join(scratch, "passed-on"), OVERRIDES);
  await withAgent(node, async (controller, start) => {
    await start();
    await controller.hello(node);
    await form(controller, node, job, 1n);
    await controller.next(node, "checkpointCommitted", ({ state }) => state!.step === 12n);
    const other = prepare(job, 2n);
    assert.ok(other.$case === "prepare");
    controller.send(node, { ...other, value: { ...other.value, jobId: "job-2" } });
    await controller.next(node, "rankReady", ({ generation }) => generation === 2n);
    const { port } = controller;
    controller.close();
    const successor = await ScriptedController.start({ port, term: 2n });
    try {
      assert.equal((await successor.hello(node)).jobId, "job-2");
      // Its answer comes after all that is repeated.
      successor.send(node, { $case: "release", value: { jobId: "job-1" } });
      await successor.next(node, "nodeReleased");
      assert.deepEqual(successor.untaken("checkpointCommitted"), []);
      assert.notDeepEqual(successor.untaken("rankReady"), []);
    } finally {
      successor.close();
    }
  });
});

test("agent: what cannot be obeyed is refused with its reason: a Prepare, the restore of a job without data", async () => {
  const node = "node-refuses";
  const job = await testJob(path.join(scratch, "refused"), OVERRIDES);
  const empty = { ...job, data: { ...job.data, media: path.join(scratch, "nothing-here") } };
  await withAgent(node, async (controller, start) => {
    await start();
    await controller.hello(node);
    controller.send(node, prepare(job, 1n, [0, 1, 2]));
    const slots = await controller.next(node, "prepareRefused");
    assert.deepEqual([slots.generation, slots.error!.code], [1n, "STATE_INVALID"]);
    controller.send(node, prepare({ ...job, seed: -1 }, 2n));
    const seed = await controller.next(node, "prepareRefused");
    assert.deepEqual([seed.generation, seed.error!.code], [2n, "JOB_INVALID"]);
    assert.match(seed.error!.message, /seed/);
    void form(controller, node, empty, 3n); // its restore fails
    const data = await controller.next(node, "rankFailed");
    assert.deepEqual([data.generation, data.error!.code], [3n, "DATA_EMPTY"]);
  });
});

/** One node that trains, has done three steps, and is about to be asked to end; its folder of checkpoints. */
async function leaving(
  node: string,
  body: (at: {
    controller: ScriptedController;
    agent: RunningAgent;
    pids: number[];
    uri: string;
  }) => Promise<void>,
): Promise<void> {
  const job = await testJob(path.join(scratch, node), [
    ...OVERRIDES,
    "train.steps=2000",
    "checkpoint.every_steps=2000",
  ]);
  await withAgent(node, async (controller, start) => {
    const agent = await start();
    await controller.hello(node);
    const pids = await form(controller, node, job, 1n);
    await losses(controller, node, 3);
    await body({ controller, agent, pids, uri: job.checkpoint.uri });
    assert.equal(existsSync(path.join(memory, node)), false, "what is durable leaves no memory behind");
  });
}

test("agent: asked to end: tells the controller, has its ranks stop when told to, goes when the state is durable", async () => {
  await leaving("node-leaves", async ({ controller, agent, uri }) => {
    const gone = agent.close("SIGTERM");
    const told = await controller.next("node-leaves", "nodeLeaving");
    assert.ok(told.graceMs > 0n && told.graceMs <= 2_000n && told.reason === "SIGTERM", String(told.graceMs));
    controller.send("node-leaves", { $case: "requestStop", value: { generation: 1n } });
    const finished = await controller.next("node-leaves", "rankFinished");
    assert.equal(finished.reason, "stop");
    await gone;
    const { state } = (await openCheckpoint(uri)).meta;
    assert.deepEqual(state, { generation: "1", step: Number(finished.state!.step) });
  });
});

test("agent: asked to end with no controller: its ranks vote for the end themselves, that step is durable", async () => {
  await leaving("node-alone", async ({ controller, agent, uri }) => {
    controller.close();
    await agent.close("SIGTERM");
    assert.ok((await openCheckpoint(uri)).meta.state.step >= 4);
  });
});

test("agent: asked to end while a rank hangs: the last finished step is saved from memory, told to or not", async () => {
  for (const told of [true, false]) {
    const node = `node-hangs-${told}`;
    await leaving(node, async ({ controller, agent, pids, uri }) => {
      process.kill(pids[1]!, "SIGSTOP");
      const step = await stillStep(controller, node);
      if (!told) controller.close();
      const gone = agent.close("SIGTERM");
      if (told) {
        const state = { generation: 1n, step: BigInt(step) };
        controller.send(node, { $case: "saveSnapshot", value: { generation: 1n, state } });
        const committed = await controller.next(node, "checkpointCommitted");
        assert.equal(committed.state!.step, BigInt(step));
      }
      await gone;
      assert.equal((await openCheckpoint(uri)).meta.state.step, step);
    });
  }
});

/**
 * The newest step that both ranks hold whole in memory, once their heartbeats show that they have stopped training. Not the
 * step that they report: a rank may stand between the end of a step and the seal of its snapshot.
 */
async function stillStep(controller: ScriptedController, node: string): Promise<number> {
  for (let before = ""; ; ) {
    const { ranks } = await controller.next(node, "heartbeat");
    const now = ranks.map(({ step, collectiveEntered }) => `${step} ${collectiveEntered}`).join();
    const still = now === before && ranks.length === 2;
    // A rank that was stopped in the optimizer of step 3 still says 2.
    if (still && ranks.every(({ step, unchangedMs }) => step >= 2n && unchangedMs > 300n)) break;
    before = now;
  }
  const [first, second] = [0, 1].map((rank) => heldSteps(node, rank));
  return Math.max(...first!.filter((step) => second!.includes(step)));
}

function heldSteps(node: string, rank: number): number[] {
  return readdirSync(path.join(memory, node), { recursive: true, encoding: "utf8" })
    .filter((name) => path.basename(name).startsWith("slot-"))
    .map((name) => readSnapshotHeader(path.join(memory, node, name)))
    .flatMap((header) => (header?.rank === rank ? [header.meta.state.step] : []));
}

test("agent: an alarm about a save that failed while no controller was there is told to the next one", async () => {
  const node = "node-alarm";
  const job = await testJob(path.join(scratch, "alarm"), OVERRIDES);
  writeFileSync(path.join(scratch, "no-folder"), "");
  job.checkpoint.uri = `file://${path.join(scratch, "no-folder", "run")}`;
  let alarmed = () => {};
  const alarm = new Promise<void>((resolve) => {
    alarmed = resolve;
  });
  const lines = { write: (line: string) => line.includes("checkpoint failed") && alarmed() };
  await withAgent(
    node,
    async (controller, start) => {
      await start();
      await controller.hello(node);
      await form(controller, node, job, 1n);
      await losses(controller, node, 1);
      const { port } = controller;
      controller.close();
      await alarm;
      const successor = await ScriptedController.start({ port, term: 2n });
      try {
        const failed = await successor.next(node, "checkpointFailed");
        assert.equal(failed.error!.code, "STORAGE_FAILED");
      } finally {
        successor.close();
      }
    },
    pino({ level: "error" }, lines),
  );
});

test("agent: ranks that hold the same shard load a checkpoint together, and go on alike", async () => {
  const node = "node-twins";
  const layout = { dpReplicate: 2, dpShard: 1, sp: 1 };
  const sizes = ["layout.dp_replicate=2", "layout.dp_shard=1", "layout.sp=1"];
  const ends = (steps: number) => [...sizes, `train.steps=${steps}`, "checkpoint.every_steps=50"];
  const folder = path.join(scratch, "twins");
  await withAgent(node, async (controller, start) => {
    await start();
    await controller.hello(node);
    await connect(controller, node, 1n, prepare(await testJob(folder, ends(3)), 1n, [0, 1], layout));
    await restore(controller, node, 1n, { $case: "initial", value: true });
    controller.send(node, { $case: "run", value: { generation: 1n } });
    const { uri, state, bytes } = await controller.next(node, "checkpointCommitted", () => true);
    controller.send(node, { $case: "release", value: { jobId: "job-1" } });
    await controller.next(node, "nodeReleased", () => true);

    await connect(controller, node, 2n, prepare(await testJob(folder, ends(5)), 2n, [0, 1], layout));
    const restored = await restore(controller, node, 2n, { $case: "checkpoint", value: { uri, state } });
    const taken = restored.map(({ parts }) => parts.reduce((sum, part) => sum + part.bytes, 0n));
    assert.deepEqual(taken, [bytes, bytes], "each has all of it, whichever of them read it");
    controller.send(node, { $case: "run", value: { generation: 2n } });
    const [four] = await losses(controller, node, 5, 4);

    const alone = path.join(scratch, "twins-undisturbed");
    controller.send(node, { $case: "release", value: { jobId: "job-1" } });
    await controller.next(node, "nodeReleased", () => true);
    await connect(controller, node, 3n, prepare(await testJob(alone, ends(5)), 3n, [0, 1], layout));
    await restore(controller, node, 3n, { $case: "initial", value: true });
    controller.send(node, { $case: "run", value: { generation: 3n } });
    assert.equal((await losses(controller, node, 5))[3], four);
  });
});

test("runAgent() refuses a second agent of the same node, and bad options, each in one line; controllers at IPv6 addresses are good", async () => {
  const node = "node-twice";
  await withAgent(node, async (controller, start) => {
    await start();
    const options = {
      controllers: [controller.address],
      slots: 1,
      host: "127.0.0.1",
      failureDomain: "",
      stateDir: memory,
      logDir: scratch,
      metricsHost: "127.0.0.1",
      metricsPort: 0,
      peakTflops: null,
      hostRoot: "/no/such/root",
      graceMs: 1_000,
      access: NO_ACCESS,
    };
    // A living process of another pid holds the lock, as a second agent would find it.
    const lock = path.join(memory, "node-other", "agent.json");
    mkdirSync(path.dirname(lock));
    writeFileSync(lock, JSON.stringify({ pid: process.ppid, startTicks: startTicks(process.ppid) }));
    await assert.rejects(runAgent({ ...options, node: "node-other" }), { code: "CONFLICT" });
    const other = await runAgent({
      ...options,
      node: "node-v6",
      controllers: ["[::1]:1", controller.address],
    });
    await other.close("the end of the test");
    for (const wrong of [
      { node: "../up" },
      { node: "a", slots: 0 },
      { node: "a", failureDomain: "rack 1\n" },
      { node: "a", controllers: ["nowhere"] },
      { node: "a", controllers: ["::1:7070"] },
      { node: "a", host: "10.0.0.1" },
      { node: "a", access: { ...NO_ACCESS, cert: "only.crt" } },
    ]) {
      await assert.rejects(runAgent({ ...options, ...wrong } as AgentOptions), { code: "ARGUMENT_INVALID" });
    }
  });
});

const selfCheck = (checkId: bigint): Command => ({
  $case: "selfCheck",
  value: { checkId, checks: ["memory", "loopback"], budgetMs: 40, checkpointUri: "" },
});

test("an agent examines its node when asked, repeats the result in Hello, and not while its ranks work", async () => {
  await withAgent("checked", async (controller, start) => {
    await start();
    assert.equal((await controller.hello("checked")).selfCheck, undefined);
    controller.send("checked", selfCheck(1n));
    assert.equal((await controller.next("checked", "selfCheckBegun")).checkId, 1n);
    const report = await controller.next("checked", "selfCheckReport");
    assert.deepEqual(
      report.results.map(({ name, ok }) => [name, ok]),
      [
        ["memory", true],
        ["loopback", true],
      ],
    );
    const { port } = controller;
    controller.close();
    const second = await ScriptedController.start({ port, term: 2n });
    try {
      assert.deepEqual((await second.hello("checked")).selfCheck, report);
      await form(second, "checked", await testJob(path.join(scratch, "checked")), 1n);
      second.send("checked", selfCheck(2n));
      assert.equal((await second.next("checked", "selfCheckReport")).busy, "2 of its ranks work");
    } finally {
      second.close();
    }
  });
});

/** Processes of a node as its agent has them on record. */
function processesOf(node: string): number[] {
  const names = readdirSync(path.join(memory, node, "processes"));
  return names.filter((name) => name.endsWith(".json")).map((name) => Number.parseInt(name, 10));
}

test("an agent that passed its checks has a process wait for every slot, also in place of one that died; ranks take them", async () => {
  const node = "warm";
  await withAgent(node, async (controller, start) => {
    await start();
    await controller.hello(node);
    controller.send(node, selfCheck(1n));
    await controller.next(node, "selfCheckReport");
    const alive = () => processesOf(node).filter((pid) => startTicks(pid) !== null);
    await until(() => alive().length === 2);
    const [first] = alive();
    process.kill(first!, "SIGKILL");
    await until(() => !alive().includes(first!) && alive().length === 2);
    const waiting = alive().sort();
    const pids = await form(controller, node, await testJob(path.join(scratch, node), OVERRIDES), 1n);
    assert.deepEqual(pids.sort(), waiting);
    await losses(controller, node, 2);
    await until(() => alive().length === 3); // one for a rank that dies
  });
});

test("an agent that a controller welcomes while it ends has no heartbeat left", {
  timeout: 60_000,
}, async () => {
  await withAgent("welcomed", async (controller, start) => {
    const agent = await start();
    await controller.hello("welcomed");
    const turn = () => new Promise((resolve) => setImmediate(resolve));
    let isOver = false;
    const ended = agent.close("SIGTERM").finally(() => {
      isOver = true;
    });
    while (!isOver) {
      controller.send("welcomed", {
        $case: "welcome",
        value: { controllerId: "late", heartbeatIntervalMs: 3_600_000 },
      });
      await turn();
    }
    await ended;
    while (process.getActiveResourcesInfo().includes("Timeout")) await turn();
  });
});
