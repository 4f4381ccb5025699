import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { diffTensors } from "../../checkpoint/diff.js";
import { openCheckpoint } from "../../checkpoint/load.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import { ERRORS } from "../../job/errors.js";
import { gokuctl } from "../support/gokuctl.js";
import { type RunRecord, type TestCluster, testJob, withCluster } from "./cluster.js";

/**
 * Real ranks whose losses are a thousand times too large, once (as from a device) or always (as from data), in step 20, when they
 * know what is usual. What each run ends with is compared with a run that has the same steps voted down as not finite, and so
 * never had their packs.
 */
const STEPS = 30;
const BAD = 20;
const LIMIT = { timeout: 600_000 };

interface Found {
  record: RunRecord;
  incidents: { code: string; decision: string; nodeId: string; what: string }[];
  cluster: TestCluster;
  uri: string;
  why: string;
}

async function run(failpoints: string, overrides: string[] = []): Promise<Found> {
  return withCluster(failpoints === "" ? {} : { failpoints }, async (cluster) => {
    const job = await testJob(cluster.folder, overrides);
    await cluster.submit(job);
    const record = await cluster.follow();
    const { incidents } = await cluster.client.call("listIncidents", { job: job.name });
    const why = await gokuctl(["why", job.name, "--all", "--controller", cluster.local.controller]);
    return { record, incidents, cluster, uri: job.checkpoint.uri, why: why.stdout };
  });
}

/** A run without the packs of these steps. */
const runs = new Map<string, Promise<Found>>();
function without(first: number, last: number): Promise<Found> {
  const steps = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  const failpoints = steps.map((step) => `forward.block@${step}:poison`).join(",");
  const known = runs.get(failpoints) ?? run(failpoints);
  runs.set(failpoints, known);
  return known;
}

/** Bit for bit the final state of the other run, and its losses where both have computed a step. */
async function assertSame(found: Found, wanted: Found, left: { first: number; last: number }): Promise<void> {
  const { record, cluster } = found;
  assert.equal(record.phase, "COMPLETED", cluster.logs);
  for (let step = 1; step <= STEPS; step++) {
    if (step >= left.first && step <= left.last) continue;
    assert.equal(record.losses.get(step), wanted.record.losses.get(step), `loss of step ${step}`);
  }
  const [a, b] = await Promise.all([found, wanted].map(({ uri }) => openCheckpoint(uri)));
  assert.deepEqual([a!.meta.state.step, a!.meta.adamStep], [STEPS, b!.meta.adamStep]);
  const apart = (await diffTensors(a!, b!, { kinds: STATE_KINDS })).filter(({ differing }) => differing > 0);
  assert.deepEqual(apart, []);
}

/** What the next steps are compared with. */
const seen = async ({ uri }: Found) => (await openCheckpoint(uri)).meta.numbers;
const told = ({ record }: Found) =>
  record.events.filter(({ kind }) => kind === "numbers").map(({ message }) => message);
const leftOut = async ({ uri }: Found) => (await openCheckpoint(uri)).meta.leftOut;

test(
  "faults: a rank makes a spike once: computed again it is none, and applied, whatever becomes of spikes; the rank is named",
  LIMIT,
  async () => {
    const found = await run(`forward.block@${BAD}/1:surge`, [
      "recovery.spike=roll_back",
      "recovery.roll_back_steps=5",
    ]);
    await assertSame(found, await without(1, 0), { first: 1, last: 0 });
    const [message, avoided, ...more] = told(found);
    assert.match(
      message!,
      /^step 20 had a loss of .*: a spike, above .* other losses of rank 1 .* a device of node-a; applied with the second numbers$/,
    );
    assert.match(avoided!, /^no free node can take the ranks of node-a/);
    assert.deepEqual([more, found.incidents, await leftOut(found)], [[], [], []]);
  },
);

test(
  "faults: a spike that stays: skipped, as if its packs had never been there; the next ones are no spikes",
  LIMIT,
  async () => {
    const found = await run(`vote.before@${BAD}:flood`, ["recovery.spike=skip"]);
    const left = { first: BAD, last: BAD };
    await assertSame(found, await without(BAD, BAD), left);
    assert.deepEqual(await leftOut(found), [{ ...left, why: "spike" }]);
    assert.deepEqual(await seen(found), await seen(await without(BAD, BAD)));
    const messages = told(found);
    assert.match(
      messages[0]!,
      /^step 20 had a loss of .* and the same again when computed a second time: data or weights make it so; voted down/,
    );
    assert.match(messages[1]!, /^loss of step 21 is .*: back after 1 step$/);
    assert.deepEqual(found.incidents, []);
  },
);

test(
  "faults: a spike that stays is rolled back, a rank is killed on the way and another in the steps that are left out: as if their packs had never been there",
  LIMIT,
  async () => {
    const inRollBack = (place: string) => [`${place}:mark`, `${place}:kill`]; // the second time that it is passed
    const failpoints = [
      `vote.before@${BAD}:flood`,
      ...inRollBack("data.before@12/2"),
      ...inRollBack("optimizer.after@18/1"),
    ];
    // Replicas may hold a state between the checkpoint and the target, from which step 12 would not be computed again.
    const overrides = ["recovery.spike=roll_back", "recovery.roll_back_steps=5", "checkpoint.replicas=0"];
    const found = await run(failpoints.join(","), overrides);
    const left = { first: 16, last: BAD };
    assert.equal(found.cluster.fired.length, failpoints.length, found.cluster.fired.join(" "));
    await assertSame(found, await without(left.first, left.last), left);
    assert.deepEqual(await leftOut(found), [{ ...left, why: "roll_back" }]);
    assert.deepEqual(await seen(found), await seen(await without(left.first, left.last)));
    const rolledBack = found.incidents.filter(({ code }) => code === "ROLLED_BACK");
    assert.equal(rolledBack.length, 1, found.cluster.logs);
    assert.match(
      rolledBack[0]!.what,
      /^step 20 had a loss of .* data or weights make it so; no weight changed, the run goes back to step 15$/,
    );
    assert.match(rolledBack[0]!.decision, /go back to step 15: steps 16 to 20 are left out/);
    assert.match(found.why, /ROLLED_BACK/);
    assert.deepEqual(found.incidents.filter(({ code }) => code === "RANK_DIED").length, 2);
    for (let step = left.first; step <= left.last; step++)
      assert.equal(
        found.record.steps.findLast((each) => each.step === step)!.leftOut,
        "roll_back",
        `step ${step}`,
      );
    const lines = readFileSync(path.join(found.uri.slice("file://".length), "metrics.jsonl"), "utf8")
      .trim()
      .split("\n");
    const rows = lines.map((line) => JSON.parse(line));
    assert.deepEqual(
      rows.map(({ step, applied }) => [step, applied]),
      Array.from({ length: STEPS }, (_, i) => [i + 1, i + 1 < left.first || i + 1 > left.last]),
      "each step once, as it is in the run",
    );
  },
);

test(
  "faults: a spike that stays, and the job is to stop then: its own code, the state before it durable",
  LIMIT,
  async () => {
    const found = await run(`vote.before@${BAD}:flood`, ["recovery.spike=stop"]);
    assert.equal(found.record.phase, "FAILED", found.cluster.logs);
    assert.equal(found.incidents.at(-1)?.code, "NUMBERS_SPIKED");
    assert.equal(ERRORS.NUMBERS_SPIKED.exit, 37);
    const { meta } = await openCheckpoint(found.uri);
    assert.deepEqual([meta.state.step, meta.adamStep], [BAD, BAD - 1]);
  },
);

test("faults: a spike that stays is applied and told where the job says nothing", LIMIT, async () => {
  const found = await run(`vote.before@${BAD}:flood`);
  await assertSame(found, await without(1, 0), { first: BAD, last: BAD });
  assert.match(
    told(found)[0]!,
    /^step 20 had a loss of .* data or weights make it so; applied all the same$/,
  );
});
