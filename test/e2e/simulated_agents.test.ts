import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { ControllerClient } from "../../cli/client.js";
import { followJob } from "../../cli/follow_job.js";
import { LocalCluster } from "../../cli/local_cluster.js";
import { JobPhase } from "../../gen/goku/v1/controller.pb.js";
import { jobSchema } from "../../job/job.js";
import { layoutOf, metaOf, SMALL, saveAndCommit, state } from "../checkpoint/fixtures.js";
import { nodeName, SimulatedFleet } from "../support/simulated_fleet.js";

const AGENTS = 64;
const SLOTS = 8;
const STEPS = 12;

const folder = mkdtempSync(path.join(tmpdir(), "goku-simulated-"));
const closers: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true })];
after(async () => {
  for (const close of closers.reverse()) await close();
});

test("512 simulated ranks on 64 agents, real streams, a real controller: a node is lost, a spare takes over, all finish", async () => {
  const cluster = await LocalCluster.start({ nodes: 0, slotsPerNode: SLOTS, folder });
  closers.push(() => cluster.stop());
  const client = new ControllerClient(cluster.controller);
  closers.push(() => client.close());
  const place = { controller: cluster.controller, slots: SLOTS, nodesPerDomain: 4 };
  const fleet = new SimulatedFleet({ ...place, first: 0, count: AGENTS + 1 });
  closers.push(() => fleet.close());
  await fleet.start();

  const job = jobSchema.parse({
    name: "simulated",
    data: { media: "/data" },
    layout: { dp_replicate: 8, dp_shard: 64, sp: 1 },
    train: { steps: STEPS, packs_per_step: 512 },
    checkpoint: { uri: `file://${path.join(folder, "run")}` },
    recovery: { stall_seconds: 60 },
  });
  await client.call("submitJob", { job: job as unknown as { [key: string]: unknown }, resumeUri: undefined });
  await fleet.until(() => fleet.countIn("running") === AGENTS);
  for (let step = 1; step <= 7; step++) fleet.step = step;

  const lost = fleet.agents.get(nodeName(3))!;
  const ranks = fleet.lose(lost.nodeId);
  assert.deepEqual(ranks, [24, 25, 26, 27, 28, 29, 30, 31]);
  fleet.peerDied(ranks[0]!);
  await fleet.until(() => fleet.countIn("running", 1) === AGENTS);
  assert.deepEqual(
    fleet.agents.get(nodeName(AGENTS))!.ranks,
    ranks,
    "the spare has the places of the lost node",
  );

  fleet.step = 8;
  fleet.finish(STEPS, `file://${path.join(folder, "run", `checkpoint-${STEPS}`)}`);
  for await (const _ of followJob(client, "simulated")); // until it is over
  const { job: status } = await client.call("getJob", { name: "simulated" });
  assert.equal(status?.phase, JobPhase.COMPLETED, status?.reason);
  assert.equal(status?.generation, 2n);
  const { incidents } = await client.call("listIncidents", { job: "simulated" });
  assert.equal(incidents.length, 1);
  assert.match(incidents[0]!.what, /^rank 24 on node-00003 was lost by \d+ peers/);
  assert.match(incidents[0]!.decision, /step 7 of generation 1 is whole in the memory of the others/);
  assert.equal(incidents[0]!.stepsLost, 0n);
});

test("all machines of a job go before anybody has told that step 5 is durable: a real controller finds it in the storage", async () => {
  const home = path.join(folder, "alone");
  const cluster = await LocalCluster.start({ nodes: 0, slotsPerNode: 1, folder: home });
  closers.push(() => cluster.stop());
  const client = new ControllerClient(cluster.controller);
  closers.push(() => client.close());
  const place = { controller: cluster.controller, slots: 1, nodesPerDomain: 1 };
  const fleet = new SimulatedFleet({ ...place, first: 0, count: 2 });
  closers.push(() => fleet.close());
  await fleet.start();
  const uri = `file://${path.join(home, "run")}`;
  const job = jobSchema.parse({
    name: "alone",
    data: { media: "/data" },
    layout: { dp_replicate: 1, dp_shard: 2, sp: 1 },
    train: { steps: STEPS, packs_per_step: 2 },
    checkpoint: { uri },
  });
  await client.call("submitJob", { job: job as unknown as { [key: string]: unknown }, resumeUri: undefined });
  await fleet.until(() => fleet.countIn("running") === 2);
  fleet.step = 6;
  const layout = layoutOf("1x2x1");
  const meta = metaOf(state(1, 5), layout);
  await saveAndCommit({ storage: uri, model: SMALL, layout, meta, slots: path.join(home, "slots") });
  for (const agent of fleet.agents.values()) agent.lose();
  await fleet.start();
  await fleet.until(() => fleet.countIn("running", 1) === 2);
  const { incidents } = await client.call("listIncidents", { job: "alone" });
  assert.match(incidents[0]!.decision, /restore from checkpoint .*checkpoint-5 \(step 5 of generation 1\)/);
  fleet.finish(STEPS, `${uri}/checkpoint-${STEPS}`);
  for await (const _ of followJob(client, "alone")); // until it is over
});
