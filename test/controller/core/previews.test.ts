import assert from "node:assert/strict";
import { test } from "node:test";
import { planPreview } from "../../../controller/core/previews.js";
import { Layout } from "../../../job/layout.js";
import * as messages from "../../support/agent_messages.js";
import { CoreHarness, jobOf, page } from "./harness.js";

/** Two nodes of one rank each, which share the weights, and train. */
function running(): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId, { slots: 1, peerPort: 7_000 });
  core.submit(jobOf());
  core.form();
  core.stepDone("n0", 5, 0.5);
  core.take();
  return core;
}

const state = (step: number) => ({ generation: 1, step });
const due = (core: CoreHarness, step: number, nodeId = "n0") =>
  core.say(nodeId, messages.preview("previewDue", 1, state(step)));
const read = (core: CoreHarness, step: number) =>
  core.say("n0", messages.preview("previewRead", 1, state(step)));
const ended = (core: CoreHarness, step: number, how: "drawn" | "skipped" | "failed" = "drawn") =>
  core.say("n0", messages.previewEnded(1, state(step), how));

/** What was told of previews, and commanded, since the last look. */
function seen(core: CoreHarness): { told: string[]; commands: string[] } {
  const effects = core.take();
  const told = effects.flatMap((e) => (e.kind === "log" && e.entry.type === "preview" ? [e.entry.text] : []));
  const commands = effects.flatMap((e) => {
    if (e.kind !== "send") return [];
    const { message, nodeId } = e;
    if (message.$case === "drawPreview")
      return [
        `${nodeId} draws ${message.value.state!.step}, reads ${message.value.places.map((p) => p.nodeId)}`,
      ];
    if (message.$case === "releasePreview") return [`${nodeId} releases ${message.value.state!.step}`];
    return [];
  });
  return { told, commands };
}

test("a preview that is due is drawn where rank 0 is; pins end when it is read, its end is told once", () => {
  const core = running();
  due(core, 8);
  assert.deepEqual(seen(core), {
    told: ["draws a preview of step 8 of generation 1 on n0, which has rank 0, with 1 other nodes read"],
    commands: ["n0 draws 8, reads n1"],
  });
  read(core, 8);
  assert.deepEqual(seen(core), { told: [], commands: ["n0 releases 8", "n1 releases 8"] });
  ended(core, 8);
  assert.deepEqual(seen(core).told, ["preview of step 8 of generation 1 is drawn: file:///previews (1.0 s)"]);
  for (const repeat of [due, read, ended]) repeat(core, 8);
  assert.deepEqual(seen(core).told, [], "repeats after a reconnect say nothing new");
  assert.equal(core.job.incident, null);
});

test("a preview that is due while one is drawn is left out with the reason, and that one is told when it ends", () => {
  const core = running();
  due(core, 8);
  core.take();
  due(core, 16);
  assert.deepEqual(seen(core), {
    told: [
      "preview of step 16 of generation 1 is left out: that of step 8 is still being drawn: raise sample.every_steps",
    ],
    commands: ["n0 releases 16", "n1 releases 16"],
  });
  ended(core, 8);
  assert.match(seen(core).told[0]!, /^preview of step 8 .* is drawn/);
  due(core, 24);
  assert.deepEqual(seen(core).commands, ["n0 draws 24, reads n1"]);
});

test("a failed preview is told, and the job goes on as it was", () => {
  const core = running();
  due(core, 8);
  core.take();
  const before = { stage: core.job.stage, generation: core.job.generation!.number };
  ended(core, 8, "failed");
  assert.deepEqual(seen(core).told, [
    "preview of step 8 of generation 1 failed (SNAPSHOT_MISSING: gone); training goes on",
  ]);
  assert.deepEqual({ stage: core.job.stage, generation: core.job.generation!.number }, before);
});

test("a member that comes back is told again what it may have missed", () => {
  const core = running();
  due(core, 8);
  const again = (nodeId: string) => {
    core.take();
    core.disconnect(nodeId);
    const ranks = [page(nodeId === "n0" ? 0 : 1, { generation: 1n })];
    core.hello(nodeId, { slots: 1, peerPort: 7_000, jobId: "job-1", generation: 1n, ranks });
    return seen(core).commands;
  };
  assert.deepEqual(again("n0"), ["n0 draws 8, reads n1"]);
  assert.deepEqual(again("n1"), []);
  read(core, 8);
  assert.deepEqual(again("n0"), ["n0 releases 8"]);
  assert.deepEqual(again("n1"), ["n1 releases 8"]);
});

test("a fault gives up what is being drawn with its generation, a stop lets nothing new begin", () => {
  const core = running();
  due(core, 8);
  core.take();
  core.exited("n1", 1);
  core.failed("n0", 0, "COMM_PEER_DIED", 1);
  core.pass(5_000);
  assert.deepEqual(seen(core).told, [
    "preview of step 8 of generation 1 is left out: generation 1 ended while it was being drawn",
  ]);
  const other = running();
  other.feed({ kind: "stopRequested", requestId: "s", jobId: "job-1", graceMs: null });
  other.take();
  due(other, 8);
  assert.deepEqual(seen(other).told, ["preview of step 8 of generation 1 is left out: the generation ends"]);
});

test("only rank 0's node says what is due, of the present generation", () => {
  const core = running();
  due(core, 8, "n1");
  core.say("n0", messages.preview("previewDue", 9, { generation: 9, step: 8 }));
  assert.deepEqual(seen(core), { told: [], commands: [] });
});

test("planPreview() reads the first shard group alone, from the nodes that have a part of it", () => {
  const options = {
    ending: null,
    drawing: null,
    layout: new Layout({ dp_replicate: 2, dp_shard: 2, sp: 2 }),
    rankNodes: ["a", "a", "b", "c", "d", "d", "e", "e"],
    serves: () => true,
  };
  const plan = planPreview(options);
  assert.ok(plan.kind === "draw");
  assert.deepEqual(
    [plan.nodeId, plan.places],
    [
      "a",
      [
        { rank: 2, nodeId: "b" },
        { rank: 3, nodeId: "c" },
      ],
    ],
  );
  assert.deepEqual(planPreview({ ...options, serves: (nodeId) => nodeId !== "c" }), {
    kind: "skip",
    reason: "c, which has a part of the weights, cannot be read now",
  });
  assert.equal(
    planPreview({ ...options, serves: (nodeId) => nodeId === "b" || nodeId === "c" }).kind,
    "draw",
  );
});
