import assert from "node:assert/strict";
import { test } from "node:test";
import { TestCluster, testJob } from "../faults/cluster.js";

/** Paces are compared here: no other test runs beside this one. */

/** Steps that nothing disturbs, then at most so many until the slow rank is named. */
const SLOW_FROM = 80;
const NAMED_WITHIN = 100;

test("faults: a rank that becomes slow: nobody is named before, it is named and no other, and its node is replaced", {
  timeout: 600_000,
}, async () => {
  // A model with steps of tenths of a second: a round is five of them.
  const overrides = [
    "model.depth=4",
    "model.width=128",
    "model.heads=4",
    "train.steps=1000",
    "train.tokens_per_pack=512",
    "checkpoint.every_steps=1000",
    "recovery.replace_stragglers=true",
  ];
  const cluster = await TestCluster.start({ nodes: 3, failpoints: `forward.block@${SLOW_FROM}/2:slow=25` });
  try {
    const job = await testJob(cluster.folder, overrides);
    await cluster.submit(job);
    const named = () => cluster.record.events.filter(({ kind }) => kind === "straggler");
    await cluster.follow(({ losses }) => named().length > 0 || losses.has(SLOW_FROM + NAMED_WITHIN));
    const step = Math.max(...cluster.record.losses.keys());
    const [first] = named();
    assert.match(first?.message ?? `nobody was named by step ${step}`, /^rank 2 on node-\w is slow: /);
    assert.ok(step > SLOW_FROM && step < SLOW_FROM + NAMED_WITHIN, `named at step ${step}`);
    assert.match(first!.message, /in the last: forward (\d+\.\d+), backward/);
    const node = /on (node-\w)/.exec(first!.message)![1]!;

    // Its generation ends with a checkpoint, the next one trains without its node.
    await cluster.follow(({ steps }) => steps.some(({ generation }) => generation > 1));
    const { job: status } = await cluster.client.call("getJob", { name: job.name });
    assert.ok(!status!.rankNodes.includes(node), `${status!.rankNodes}`);
    const { incidents } = await cluster.client.call("listIncidents", { job: job.name });
    assert.deepEqual(
      incidents.map(({ code, rank, nodeId, stepsLost }) => [code, rank, nodeId, stepsLost]),
      [["RANK_SLOW", 2, node, 0n]],
    );
    assert.match(incidents[0]!.evidence.join("\n"), /times the time of the others for the same work/);
    const told = cluster.record.steps.map((each) => each.step);
    assert.equal(new Set(told).size, told.length, "no step was computed twice");
    assert.equal(named().filter(({ message }) => /is slow:/.test(message)).length, 1, "once");

    // A round later its ranks can be read off their agents' metrics, and the slowest off the controller's.
    const last = Math.max(...told);
    await cluster.follow(({ losses }) => losses.has(last + 20));
    const { rest } = cluster.local;
    const targets = (await (await fetch(`${rest}/v1/prometheus/targets`)).json()) as { targets: string[] }[];
    const agents = targets.map(async ({ targets: [address] }) =>
      (await fetch(`http://${address}/metrics`)).text(),
    );
    const shown = (await Promise.all(agents)).join("").match(/^goku_rank_slowness_ratio{.*}/gm) ?? [];
    assert.deepEqual(
      shown.sort(),
      [0, 1, 2, 3].map((rank) => `goku_rank_slowness_ratio{job="faults",rank="${rank}"}`),
    );
    const metrics = await (await fetch(`${rest}/metrics`)).text();
    assert.match(metrics, /^goku_job_slowness_ratio{job="faults"} \d/m);
    assert.match(metrics, /^goku_stragglers_total{job="[^"]+",kind="rank"} 1$/m);
    await cluster.client.call("stopJob", { name: job.name });
    await cluster.follow();
    assert.equal(cluster.record.phase, "STOPPED");
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${cluster.logs}`, { cause: error });
  } finally {
    await cluster.stop();
  }
});
