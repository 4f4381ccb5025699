import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { until } from "../support/until.js";
import { type RunRecord, type TestCluster, testMedia } from "./cluster.js";
import { assertSameRun, generations, LIMIT, run, STEPS } from "./compare_runs.js";

/** Agents and controllers that die or are asked to end. */

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
