import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import type { Incident } from "../../gen/goku/v1/controller.pb.js";
import type { Job } from "../../job/job.js";
import { until } from "../support/until.js";
import { type RunRecord, TestCluster, type TestClusterOptions, testJob, testMedia } from "./cluster.js";

const STEPS = 30;
/** Ends a run that hangs, so that the suite does; far above what a busy machine takes. */
const LIMIT = { timeout: 600_000 };

/** Runs one job on a cluster of its own; `harm` may do things to it meanwhile. */
async function run(
  options: TestClusterOptions & { overrides?: string[] },
  harm: (cluster: TestCluster) => Promise<void> = async () => {},
): Promise<{ record: RunRecord; incidents: Incident[]; cluster: TestCluster; job: Job }> {
  const cluster = await TestCluster.start(options);
  let ended = false;
  try {
    const job = await testJob(cluster.folder, options.overrides ?? []);
    await cluster.submit(job);
    await harm(cluster);
    const record = await cluster.follow();
    const { incidents } = await cluster.client.call("listIncidents", { job: job.name });
    ended = true;
    return { record, incidents, cluster, job };
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${cluster.logs}`, { cause: error });
  } finally {
    await cluster.stop().catch((error: unknown) => {
      if (ended) throw error;
    });
  }
}

/** The run that nothing disturbed; what all others must equal. */
let undisturbed: Promise<{ record: RunRecord; job: Job }> | null = null;
function reference(): Promise<{ record: RunRecord; job: Job }> {
  undisturbed ??= run({});
  return undisturbed;
}

/**
 * Same losses at every step, same final state bit for bit. With `untoldMax` some steps may not have been told: an agent
 * that is killed takes with it what it had not sent yet.
 */
async function assertSameRun(
  found: { record: RunRecord; cluster: TestCluster; job: Job },
  untoldMax = 0,
): Promise<void> {
  const wanted = await reference();
  const { record, cluster, job } = found;
  const explain = `${record.phase}\n${cluster.logs}`;
  assert.equal(record.phase, "COMPLETED", explain);
  for (const [step, loss] of record.losses)
    assert.equal(loss, wanted.record.losses.get(step), `loss of step ${step}`);
  assert.ok(record.losses.size >= STEPS - untoldMax, `${record.losses.size} of ${STEPS} steps told`);
  const [a, b] = await Promise.all([job, wanted.job].map((one) => openCheckpoint(one.checkpoint.uri)));
  assert.equal(a!.meta.state.step, STEPS);
  assert.equal(a!.meta.adamStep, b!.meta.adamStep);
  for (const { name } of a!.specs) {
    for (const kind of STATE_KINDS) {
      const tensor = `${kind}/${name}`;
      const [left, right] = [await a!.readTensor(tensor), await b!.readTensor(tensor)];
      assert.ok(Buffer.from(left.buffer).equals(Buffer.from(right.buffer)), `${tensor} differs`);
    }
  }
}

function generations(record: RunRecord): number {
  return new Set(record.steps.map((step) => step.generation)).size;
}

test(
  "faults: nothing: every step once, in one generation, with checkpoints at 10, 20 and 30",
  LIMIT,
  async () => {
    const { record, job } = await reference();
    assert.equal(record.phase, "COMPLETED");
    assert.deepEqual(
      record.steps.map(({ step, applied }) => [step, applied]),
      Array.from({ length: STEPS }, (_, i) => [i + 1, true]),
    );
    assert.equal(generations(record), 1);
    assert.equal((await openCheckpoint(job.checkpoint.uri)).meta.state.step, STEPS);
  },
);

test(
  "faults: SIGKILL of a rank in every phase, and of two at once: same losses, same weights",
  LIMIT,
  async () => {
    const failpoints = [
      "connect.before/1:kill",
      "restore.before/2:kill",
      "data.before@3/0:kill",
      "forward.block@5/1:kill",
      "collective.entered@7/2:kill",
      "backward.block@9/3:kill",
      "vote.before@12/0:kill",
      "optimizer.before@14/1:kill",
      "optimizer.after@16/2:kill",
      "snapshot.write@18/3:kill",
      "data.before@23/0:kill",
      "data.before@23/3:kill",
      "snapshot.write@30/1:kill",
    ];
    const found = await run({ failpoints: failpoints.join(",") });
    assert.equal(found.cluster.fired.length, failpoints.length, found.cluster.fired.join(" "));
    await assertSameRun(found);
  },
);

test(
  "faults: a rank killed twice before a step is completed: its node is examined between generations, same losses",
  LIMIT,
  async () => {
    const found = await run({ failpoints: "restore.before/1:kill,vote.before@1/1:kill" });
    await assertSameRun(found);
    const log = readFileSync(path.join(found.cluster.folder, "controller.log"), "utf8");
    const [, node] = /examines (node-\w) \(2 faults in a row were laid to it\) before it is used again/.exec(
      log,
    )!;
    assert.match(log.slice(log.indexOf("examines node-")), new RegExp(`${node} passed \\d self-checks`));
  },
);

test(
  "faults: a rank stopped, one blocked, one with an error of its own: each named, replaced, same losses",
  LIMIT,
  async () => {
    const failpoints = ["vote.before@8/2:stop", "data.before@14/1:stall", "backward.block@20/0:throw"];
    const found = await run({ failpoints: failpoints.join(",") });
    assert.equal(found.cluster.fired.length, failpoints.length, found.cluster.fired.join(" "));
    assert.deepEqual(
      found.incidents.map(({ code, rank, nodeId }) => [code, rank, nodeId]),
      [
        ["RANK_STALLED", 2, "node-b"],
        ["RANK_STALLED", 1, "node-a"],
        ["INTERNAL", 0, "node-a"],
      ],
    );
    const [stopped, blocked, threw] = found.incidents.map(({ what }) => what);
    assert.match(
      stopped!,
      /^rank 2 on node-b has not moved .*\(step 8, reduce\); 3 ranks wait in all_reduce of world/,
    );
    assert.match(
      blocked!,
      /^rank 1 on node-a has not moved .*\(step 14, data\); 3 ranks wait in all_gather of shard/,
    );
    const stacks = found.incidents.map((incident) =>
      incident.stacks.flatMap(({ lines }) => lines).join("\n"),
    );
    assert.match(stacks[0]!, /^process \d+: stopped by a signal$/);
    assert.match(stacks[1]!, /^process \d+: [\s\S]*^main thread[\s\S]*\((node|libc\.so\.6)\)$/m);
    assert.equal(stacks[2], "", "it said itself what was wrong");
    assert.match(threw!, /^rank 0 on node-a: .*backward\.block@20\/0:throw threw/);
    await assertSameRun(found);
  },
);

test(
  "faults: a rank is wrong once: the step is computed again and applied, the rank is named: same losses, same weights",
  LIMIT,
  async () => {
    const found = await run({
      failpoints: "forward.block@6/1:nan,vote.before@9/3:nan,backward.block@12/0:nan",
    });
    await assertSameRun(found);
    const { record, incidents, cluster } = found;
    assert.equal(generations(record), 1);
    assert.ok(record.steps.every(({ applied }) => applied));
    const node = (rank: number) => `node-${rank < 2 ? "a" : "b"}`;
    const told = record.events.filter(({ kind, message }) => kind === "numbers" && /hardware/.test(message));
    const want = [
      [6, 1],
      [9, 3],
      [12, 0],
    ].map(
      ([step, rank]) =>
        new RegExp(
          `^step ${step} was not finite .* other losses of rank ${rank} .* a device of ${node(rank!)}; applied`,
        ),
    );
    assert.equal(told.length, 3, `${told.map(({ message }) => message).join("\n")}\n${cluster.logs}`);
    for (const [i, { message }] of told.entries()) assert.match(message, want[i]!);
    assert.deepEqual(incidents, [], "no node was free to take a place");
  },
);

test(
  "faults: a rank is wrong once and a node is free: it takes the place, no step is computed twice: same losses, same weights",
  LIMIT,
  async () => {
    const found = await run({ nodes: 3, failpoints: "forward.block@6/2:nan" });
    await assertSameRun(found);
    const { record, incidents } = found;
    const [incident, ...more] = incidents;
    assert.deepEqual([incident?.code, incident?.rank, incident?.stepsLost], ["RANK_CORRUPT", 2, 0n]);
    assert.match(incident!.decision, new RegExp(`go on from it without ${incident!.nodeId}`));
    assert.deepEqual(more, []);
    assert.deepEqual(
      record.steps.map(({ step }) => step),
      Array.from({ length: STEPS }, (_, i) => i + 1),
    );
  },
);

test(
  "faults: losses that are not numbers whoever computes them: the steps are voted down by all, told, and training goes on",
  LIMIT,
  async () => {
    const { record, incidents } = await run({ failpoints: "forward.block@6:poison,vote.before@9/3:poison" });
    assert.equal(record.phase, "COMPLETED");
    assert.equal(generations(record), 1);
    const down = record.steps.filter(({ applied }) => !applied).map(({ step }) => step);
    assert.deepEqual(down, [6, 9]);
    const told = record.events.filter(({ kind }) => kind === "numbers").map(({ message }) => message);
    assert.equal(told.length, 2, told.join("\n"));
    assert.match(
      told[0]!,
      /^step 6 was not finite \(packs 0, 1, 2\), and the same again when computed a second time/,
    );
    assert.match(told[1]!, /^step 9 was not finite \(packs 0, 1, 2\), and the same again/);
    assert.deepEqual(incidents, []);
  },
);

test(
  "faults: a rank is wrong whenever it computes a step, and a node is free: others find its packs finite, its node is replaced",
  LIMIT,
  async () => {
    const { record, incidents, cluster } = await run({ nodes: 3, failpoints: "forward.block@6/2:poison" });
    assert.equal(record.phase, "COMPLETED", cluster.logs);
    assert.deepEqual(
      record.steps.filter(({ applied }) => !applied).map(({ step }) => step),
      [6],
    );
    const told = record.events.filter(({ kind }) => kind === "numbers").map(({ message }) => message);
    assert.match(
      told[0]!,
      /^step 6 was not finite \(pack 1\), and on ranks 2, 3 only: others find their packs finite/,
    );
    const [incident, ...more] = incidents;
    assert.equal(incident?.code, "RANK_CORRUPT", told.join("\n"));
    assert.match(incident!.decision, new RegExp(`go on from it without ${incident!.nodeId}`));
    assert.deepEqual(more, []);
  },
);

test(
  "faults: no step is finite any more: the job fails after as many as it allows, its last state durable",
  LIMIT,
  async () => {
    const { record, incidents, job, cluster } = await run({
      failpoints: "backward.block:poison",
      overrides: ["recovery.max_bad_steps=4"],
    });
    assert.equal(record.phase, "FAILED", cluster.logs);
    assert.deepEqual(
      record.steps.map(({ step, applied }) => [step, applied]),
      [1, 2, 3, 4].map((step) => [step, false]),
    );
    const why = /losses or gradients of steps 1 to 4 are not finite, also when computed again/;
    assert.ok(
      record.events.some(({ message }) => why.test(message)),
      cluster.logs,
    );
    assert.equal(incidents.at(-1)?.code, "NOT_FINITE");
    const { meta } = await openCheckpoint(job.checkpoint.uri);
    assert.deepEqual([meta.state.step, meta.adamStep], [4, 0]);
  },
);

test(
  "faults: agents killed while they save, commit, and train, one asked to end: snapshots are adopted, same losses",
  LIMIT,
  async () => {
    const failpoints = ["save.write@10/0:kill", "save.commit@20/0:kill", "save.committed@30/0:kill"];
    const found = await run({ failpoints: failpoints.join(",") }, async (cluster) => {
      await cluster.follow((record) => record.losses.has(14));
      process.kill(cluster.local.pid("node-a"), "SIGTERM");
      await cluster.follow((record) => record.losses.has(25));
      process.kill(cluster.local.pid("node-b"), "SIGKILL");
    });
    assert.equal(found.cluster.fired.length, failpoints.length, found.cluster.fired.join(" "));
    await assertSameRun(found, 5);
  },
);

test(
  "faults: a picture added, a caption edited and one removed in mid-run: an agent's successor goes on with the old data",
  LIMIT,
  async () => {
    const media = mkdtempSync(path.join(tmpdir(), "goku-faults-media-"));
    try {
      cpSync(await testMedia(), media, { recursive: true });
      const found = await run({ overrides: [`data.media=${media}`] }, async (cluster) => {
        await cluster.follow((record) => record.losses.has(4));
        const images = path.join(media, "images");
        const [first, second, third] = readdirSync(images).filter((name) => name.endsWith(".txt"));
        cpSync(path.join(images, first!.replace(".txt", ".png")), path.join(images, "added.png"));
        writeFileSync(path.join(images, "added.txt"), "one more");
        writeFileSync(path.join(images, second!), "another caption");
        rmSync(path.join(images, third!));
        process.kill(cluster.local.pid("node-b"), "SIGKILL");
      });
      await assertSameRun(found, 5);
    } finally {
      rmSync(media, { recursive: true, force: true });
    }
  },
);

test(
  "faults: a dead controller and full disks: training never pauses, alarms are raised, the last state is durable",
  LIMIT,
  async () => {
    // Each part fires once, so as many are needed as the save is tried.
    const early = ["5", "05", "005", "0005", "00005"].map((step) => `save.write@${step}/0:enospc`);
    const final = ["save.write@30/3:enospc", "save.commit@30/0:enospc"];
    const options = {
      failpoints: [...early, ...final].join(","),
      restart: false,
      overrides: ["checkpoint.every_steps=5"],
    };
    let away = { from: 0, to: 0 };
    const found = await run(options, async (cluster) => {
      await cluster.follow(({ events }) => events.some(({ kind }) => kind === "alarm"));
      await cluster.kill("controller");
      const from = cluster.stepOnPages;
      await until(() => cluster.stepOnPages >= Math.min(from + 5, STEPS));
      away = { from, to: cluster.stepOnPages };
      await cluster.local.startController();
    });
    const fired = found.cluster.fired.filter((name) => name.includes("@30"));
    assert.equal(fired.length, final.length, found.cluster.fired.join(" "));
    assert.ok(away.to >= away.from + 5, `with no controller, from step ${away.from} to ${away.to}`);
    assert.equal(generations(found.record), 1, "no generation was formed anew");
    const alarms = found.record.events.filter(({ kind }) => kind === "alarm").map(({ message }) => message);
    assert.ok(
      alarms.some((message) => /step 5 .*no space left/i.test(message)),
      alarms.join("\n"),
    );
    await assertSameRun(found);
  },
);

/** Steps of each generation in the order told; every step once, over all of them. */
function stepsOf(record: RunRecord): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (const { generation, step } of record.steps)
    found.set(generation, [...(found.get(generation) ?? []), step]);
  assert.deepEqual(
    record.steps.map(({ step }) => step),
    Array.from({ length: STEPS }, (_, i) => i + 1),
    "every step is computed once",
  );
  return found;
}

test(
  "faults: SIGTERM of an agent: the voted step is durable, it exits with 0, a spare goes on from there: same losses",
  LIMIT,
  async () => {
    let [exit, node]: [number | string, string] = ["", ""];
    const options = { nodes: 3, restart: false, overrides: ["checkpoint.keep_last=9"] };
    const found = await run(options, async (cluster) => {
      await cluster.follow((record) => record.losses.has(12));
      node = await cluster.nodeOf(3);
      process.kill(cluster.local.pid(node), "SIGTERM");
      exit = await cluster.local.ended(node);
    });
    assert.equal(exit, 0, found.cluster.logs);
    const [first, second] = [...stepsOf(found.record).values()];
    const voted = first!.at(-1)!;
    assert.equal(second![0], voted + 1);
    const saved = await openCheckpoint(found.job.checkpoint.uri, { generation: "1", step: voted });
    assert.equal(saved.meta.state.step, voted);
    const [incident] = found.incidents;
    assert.deepEqual([incident?.code, incident?.nodeId, incident?.stepsLost], ["NODE_PREEMPTED", node, 0n]);
    assert.ok(
      incident!.decision.includes(`${node} is given up (it leaves: SIGTERM): others take over`),
      incident!.decision,
    );
    await assertSameRun(found);
  },
);

/** Step 14 hangs. The report of step 13 may wait behind it in rank 0, which blocks in its collectives. */
async function hung(cluster: TestCluster): Promise<void> {
  await cluster.follow((record) => record.losses.has(11));
  await until(() => cluster.fired.length === 1);
}

test(
  "faults: SIGTERM of an agent whose rank hangs: the last step is saved from memory by all agents: same losses",
  LIMIT,
  async () => {
    let exit: number | string = "";
    const options = {
      nodes: 3,
      restart: false,
      failpoints: "vote.before@14/3:stop",
      overrides: ["recovery.stall_seconds=60", "checkpoint.keep_last=9"],
    };
    const found = await run(options, async (cluster) => {
      await hung(cluster);
      const node = await cluster.nodeOf(3);
      process.kill(cluster.local.pid(node), "SIGTERM");
      exit = await cluster.local.ended(node);
    });
    assert.equal(exit, 0, found.cluster.logs);
    const [first, second] = [...stepsOf(found.record).values()];
    assert.deepEqual([first!.at(-1), second![0]], [13, 14]);
    const { decision } = found.incidents[0]!;
    assert.match(decision, /save step 13 of generation 1 from memory/, found.cluster.logs);
    await openCheckpoint(found.job.checkpoint.uri, { generation: "1", step: 13 });
    await assertSameRun(found);
  },
);

test(
  "faults: a second SIGTERM while a rank hangs: the agent ends at once, its successor adopts the memory: same losses",
  LIMIT,
  async () => {
    let exit: number | string = "";
    const options = { failpoints: "vote.before@14/3:stop", overrides: ["recovery.stall_seconds=60"] };
    const found = await run(options, async (cluster) => {
      await hung(cluster);
      const node = await cluster.nodeOf(3);
      const ended = cluster.local.ended(node);
      const pid = cluster.local.pid(node);
      process.kill(pid, "SIGTERM");
      await cluster.follow(({ events }) => events.some(({ message }) => message.includes(`${node} leaves`)));
      process.kill(pid, "SIGTERM");
      exit = await ended;
    });
    assert.equal(exit, 143, found.cluster.logs);
    await assertSameRun(found);
  },
);

/** No checkpoint before the last step: what a run goes on from lies in memory; it is copied fast, for steps are short. */
const MEMORY_ONLY = ["checkpoint.every_steps=1000", "checkpoint.replica_mib_per_second=256"];

test(
  "faults: a node that never comes back: another takes its ranks at once, from copies in memory: same losses",
  LIMIT,
  async () => {
    const options = { nodes: 3, restart: false, overrides: MEMORY_ONLY };
    const found = await run(options, async (cluster) => {
      await cluster.replicated(3);
      await cluster.lose(await cluster.nodeOf(3));
    });
    const [incident] = found.incidents;
    assert.equal(found.incidents.length, 1, found.cluster.logs);
    assert.match(incident!.decision, /replica/, found.cluster.logs);
    assert.match(incident!.decision, /is whole in the memory of the others: they take over at once/);
    assert.match(incident!.decision, /restore from memory, step ([3-9]|\d\d) of/);
    await assertSameRun(found, 5);
  },
);

test(
  "faults: two nodes lost one after the other: processes that waited take the places, copied and keeping copies like any other",
  LIMIT,
  async () => {
    const options = { nodes: 4, restart: false, overrides: [...MEMORY_ONLY, "train.steps=120"] };
    const { record, incidents, cluster } = await run(options, async (running) => {
      await running.replicated(3);
      const waiting = await running.waitingProcesses(2);
      assert.equal(waiting.size, 2);
      await running.lose(await running.nodeOf(3));
      await running.follow(({ steps }) => steps.at(-1)!.generation > 1); // until then the first one's copies are told
      const { job } = await running.client.call("getJob", { name: "faults" });
      const successor = job!.rankNodes[3]!;
      const taken = await running.pidsOn(successor);
      assert.deepEqual(taken.sort(), waiting.get(successor)?.sort(), successor);
      await running.replicated(running.record.steps.at(-1)!.step + 3); // a state that this generation computed
      await running.lose(await running.nodeOf(0));
    });
    assert.equal(record.phase, "COMPLETED", cluster.logs);
    assert.equal(incidents.length, 2, cluster.logs);
    for (const { decision } of incidents) {
      assert.match(decision, /is whole in the memory of the others: they take over at once/);
      assert.match(decision, /restore from memory, step \d+ of generation [1-9]/);
    }
    const wanted = (await reference()).record.losses;
    for (const [step, loss] of wanted) assert.equal(record.losses.get(step), loss, `loss of step ${step}`);
  },
);

test(
  "faults: a node is lost while all ranks wait for its commit of the last state: another makes it durable",
  LIMIT,
  async () => {
    const options = {
      nodes: 3,
      restart: false,
      failpoints: "save.commit@30/0:stop",
      overrides: [...MEMORY_ONLY, "recovery.node_grace_seconds=1"],
    };
    const found = await run(options, async (cluster) => {
      await cluster.follow((record) => record.losses.has(12));
      const node = await cluster.nodeOf(0);
      await until(() => cluster.fired.length === 1);
      await cluster.lose(node);
    });
    assert.deepEqual(
      found.incidents.map(({ code }) => code),
      ["NODE_LOST"],
      found.cluster.logs,
    );
    await assertSameRun(found, 5);
  },
);

test(
  "faults: a node whose ranks have twins never comes back: nothing was sent, and no agreed step is lost",
  LIMIT,
  async () => {
    const layout = ["layout.dp_replicate=2", "layout.dp_shard=1", "layout.sp=2"];
    const options = { nodes: 3, restart: false, overrides: [...MEMORY_ONLY, ...layout] };
    const { record, incidents, cluster } = await run(options, async (running) => {
      await running.follow(({ losses }) => losses.has(12));
      await running.lose(await running.nodeOf(3));
    });
    assert.equal(record.phase, "COMPLETED", cluster.logs);
    assert.equal(incidents.length, 1, cluster.logs);
    assert.ok(Number(incidents[0]!.stepsLost) <= 1, `${incidents[0]!.stepsLost}: ${incidents[0]!.decision}`);
  },
);

test(
  "faults: a node never comes back and none replaces it: the state is re-partitioned from memory to what is left",
  LIMIT,
  async () => {
    const options = {
      restart: false,
      tolerance: 1e-5,
      overrides: [...MEMORY_ONLY, "layout=auto", "recovery.node_grace_seconds=0.5"],
    };
    const { record, incidents, cluster } = await run(options, async (running) => {
      await running.replicated(4);
      await running.lose(await running.nodeOf(3));
    });
    assert.equal(record.phase, "COMPLETED", cluster.logs);
    assert.equal(incidents.length, 1, cluster.logs);
    assert.match(incidents[0]!.decision, /re-partitioned from memory/, cluster.logs);
    const wanted = (await reference()).record.losses;
    for (const [step, loss] of record.losses) {
      const error = Math.abs(loss / wanted.get(step)! - 1);
      assert.ok(error < 1e-5, `step ${step}: ${loss}, on four ranks ${wanted.get(step)}`);
    }
  },
);

test(
  "faults: a node comes back after the job went on without it: taken in between two steps, in the same processes",
  LIMIT,
  async () => {
    const options = {
      restart: false,
      tolerance: 1e-5,
      overrides: [...MEMORY_ONLY, "layout=auto", "recovery.node_grace_seconds=0.5", "train.steps=2000"],
    };
    const pids: number[][] = [];
    const { record, incidents, cluster } = await run(options, async (running) => {
      await running.replicated(4);
      const [lost, kept] = [await running.nodeOf(3), await running.nodeOf(0)];
      await running.lose(lost);
      const generationOf = ({ steps }: RunRecord) => steps.at(-1)!.generation;
      await running.follow((found) => generationOf(found) === 2);
      pids.push(await running.pidsOn(kept));
      running.local.startAgent(lost);
      await running.follow((found) => generationOf(found) === 3);
      pids.push(await running.pidsOn(kept));
    });
    assert.equal(record.phase, "COMPLETED", cluster.logs);
    assert.equal(incidents.length, 1, "nothing broke when it came back");
    assert.deepEqual(pids[1], pids[0], "survivors keep their processes");
    const numbers = record.steps.map(({ step }) => step);
    const grown = record.steps.findIndex(({ generation }) => generation === 3);
    assert.equal(numbers[grown], numbers[grown - 1]! + 1, "no step is lost");
    const wanted = (await reference()).record.losses;
    for (const [step, loss] of wanted) {
      const error = Math.abs(record.losses.get(step)! / loss - 1);
      assert.ok(error < 1e-5, `step ${step}: ${record.losses.get(step)}, undisturbed ${loss}`);
    }
  },
);
