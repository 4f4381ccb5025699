import assert from "node:assert/strict";
import { test } from "node:test";
import { until } from "../support/until.js";
import { type RunRecord, testJob, withCluster } from "./cluster.js";
import { assertSameRun, LIMIT, reference, run } from "./compare_runs.js";

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
      overrides: [...MEMORY_ONLY, "layout=auto", "recovery.node_grace_seconds=0.5", "train.steps=100000"],
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
      await running.client.call("stopJob", { name: "faults" });
    });
    assert.equal(record.phase, "STOPPED", cluster.logs);
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

test(
  "faults: a node whose collectives fail again and again, though its processes live: tried in pairs with others it is found and out",
  LIMIT,
  async () => {
    // Without a folder for their markers they fire in every process anew.
    const failpoints = {
      GOKU_FAILPOINTS: "collective.entered@15/2:stall,selfcheck.collective:flip",
      GOKU_FAILPOINT_DIR: "",
    };
    const placeOf = (member: string) => ({
      host: "127.0.0.1",
      enter: [],
      env: member === "node-b" ? failpoints : {},
    });
    // Some steps of each generation are told before it stands still, so that it is soon known to.
    const overrides = [...MEMORY_ONLY, "checkpoint.snapshot_every_steps=4", "recovery.stall_seconds=2"];
    await withCluster({ nodes: 3, placeOf }, async (cluster) => {
      await until(async () => {
        const { nodes } = await cluster.client.call("listNodes", {});
        return nodes.filter(({ selfCheck }) => selfCheck === "passed").length === 3;
      });
      const job = await testJob(cluster.folder, overrides);
      await cluster.submit(job); // its ranks 2 and 3 are on the second node
      const record = await cluster.follow();
      const { nodes } = await cluster.client.call("listNodes", {});
      const bad = nodes.find(({ nodeId }) => nodeId === "node-b")!;
      assert.match(bad.unusable, /quarantined: self-check: collective failed: /, cluster.logs);
      const { incidents } = await cluster.client.call("listIncidents", { job: job.name });
      assert.equal(incidents.length, 3, cluster.logs);
      const told = /collectives in pairs \(diagnosis 1\): node-b failed: collective failed/;
      const { evidence } = incidents.at(-1)!;
      assert.ok(
        evidence.some((text) => told.test(text)),
        evidence.join("\n"),
      );
      await assertSameRun({ record, cluster, job }, 5);
    });
  },
);
