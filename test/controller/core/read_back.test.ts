import assert from "node:assert/strict";
import { test } from "node:test";
import { jobViews } from "../../../controller/core/views.js";
import type { CheckpointRead } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness, jobOf } from "./harness.js";

const URI = "file:///runs/shapes/checkpoint-10";

/** Two nodes of a rank each, and a checkpoint of step 10. */
function saved(): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0", { slots: 1 });
  core.hello("n1", { slots: 1 });
  core.submit(jobOf({ layout: { dp_replicate: 1, dp_shard: 2, sp: 1 } }));
  core.form();
  core.saved("n0", { generation: 1, step: 10 });
  core.effects = [];
  return core;
}

function read(core: CoreHarness, nodeId: string, more: Partial<CheckpointRead>): void {
  const state = { generation: 1n, step: 10n };
  const value = { generation: 1n, state, uri: URI, writers: [], writerCount: 2, damage: "", ...more };
  core.say(nodeId, { $case: "checkpointRead", value });
}

const viewOf = (core: CoreHarness) => jobViews(core.state, core.nowMs)[0]!.checkpoints.at(-1)!;
const told = (core: CoreHarness) =>
  core.effects.flatMap((effect) =>
    effect.kind === "log" ? [`${effect.entry.level}: ${effect.entry.text}`] : [],
  );
const counted = (core: CoreHarness) =>
  core.effects.flatMap((effect) =>
    effect.kind === "observe" && effect.metric === "goku_checkpoint_verified_total"
      ? [effect.labels.result]
      : [],
  );

test("a checkpoint is verified once each of its writers has read its part back; told again it counts once", () => {
  const core = saved();
  assert.equal(viewOf(core).read, null);
  read(core, "n0", { writers: [0] });
  assert.deepEqual([viewOf(core).read?.whole, viewOf(core).read?.of, told(core)], [1, 2, []]);
  core.nowMs += 60_000;
  read(core, "n1", { writers: [1] });
  const atMs = core.nowMs;
  core.nowMs += 60_000;
  read(core, "n1", { writers: [1] });
  read(core, "n0", { writers: [0] });
  assert.deepEqual(viewOf(core).read, { whole: 2, of: 2, atMs });
  assert.deepEqual(counted(core), ["whole"]);
  assert.deepEqual(told(core), [
    `info: step 10 of generation 1 at ${URI} was read back: each of its 2 parts is as it was written`,
  ]);
  assert.equal(core.effects.filter(({ kind }) => kind === "persist").length, 0);
});

test("what is told before the commit is, by another agent, counts when that comes", () => {
  const core = saved();
  const [later, state] = ["file:///runs/shapes/checkpoint-20", { generation: 1n, step: 20n }];
  read(core, "n1", { uri: later, state, damage: "checkpoint-20/x.safetensors: MiB 3 differs" });
  assert.deepEqual(told(core), []);
  core.saved("n0", { generation: 1, step: 20 });
  assert.match(viewOf(core).unusable!, /^damaged: checkpoint-20/);
  assert.deepEqual(counted(core), ["damaged"]);
});

test("a checkpoint that was found damaged is tried when nothing else is left, and not again where it fails", () => {
  const core = saved();
  read(core, "n1", { damage: "checkpoint-10/x.safetensors: MiB 3 differs" });
  core.exited("n0", 0);
  core.pass(2_000);
  core.form();
  assert.match(core.job.reason, /trains from step 10/);
  const { source } = core.lastCommand("restore").value;
  assert.ok(source?.$case === "checkpoint" && source.value.uri === URI);
});

test("a damaged part: an alarm, once, and the checkpoint is durably not restored from, whoever found the rest whole", () => {
  const core = saved();
  core.saved("n0", { generation: 1, step: 20 });
  core.effects = [];
  const damage = "Cannot read checkpoint-10/g1-w1.safetensors: MiB 3 of model/a differs from its digest";
  read(core, "n0", { writers: [0] });
  read(core, "n1", { damage });
  read(core, "n1", { damage });
  const entry = core.job.checkpoints[0]!;
  assert.equal(entry.unusable, `damaged: ${damage}`);
  assert.deepEqual(counted(core), ["damaged"]);
  assert.deepEqual(told(core), [
    `alarm: step 10 of generation 1 at ${URI} is damaged, as n1 read it back (${damage}): it is not restored from, file:///runs/shapes/checkpoint-20 is the newest that is left; training goes on, gokuctl save shapes makes a new one`,
  ]);
  const writes = core.effects.flatMap((effect) => (effect.kind === "persist" ? effect.writes : []));
  assert.ok(
    writes.some(({ record }) => record?.kind === "checkpoints" && record.entries[0]?.unusable !== null),
  );
  assert.equal(core.job.generation!.stage, "run");
});

test("what was read of a checkpoint that is replaced, or that never is registered, counts for nothing", () => {
  const core = saved();
  read(core, "n0", { writers: [0] });
  read(core, "n1", { writers: [1, 7], uri: "file:///elsewhere/checkpoint-10" });
  read(core, "n1", { damage: "bad", state: { generation: 3n, step: 10n } });
  assert.equal(viewOf(core).read?.whole, 1);
  core.saved("n0", { generation: 2, step: 10 });
  assert.deepEqual([viewOf(core).read, viewOf(core).unusable], [null, null]);
  read(core, "n1", { writers: [1, 7], state: { generation: 2n, step: 10n } });
  assert.equal(viewOf(core).read?.whole, 1);
  assert.equal(core.job.readBack.size, 1);
});
