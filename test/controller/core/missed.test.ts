import assert from "node:assert/strict";
import { test } from "node:test";
import { jobView } from "../../../controller/core/views.js";
import { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness } from "./harness.js";

const tell = (core: CoreHarness, step: number, more: Partial<StepCompleted>) => {
  const value = StepCompleted.fromPartial({
    generation: 1n,
    step: BigInt(step),
    stepSeconds: 0.5,
    applied: true,
    ...more,
  });
  core.say("n0", { $case: "stepCompleted", value });
};
const counted = (core: CoreHarness, name: string) =>
  core.effects.flatMap((e) => (e.kind === "observe" && e.metric === name ? [e.value] : [])).length;
const warnings = (core: CoreHarness) =>
  core.effects.flatMap((e) => (e.kind === "log" && e.entry.type === "checkpoint" ? [e.entry.text] : []));

test("snapshots and saves that are left out for want of a slot: each is counted, people are told every ten minutes", () => {
  const core = CoreHarness.running();
  core.take();
  tell(core, 1, {});
  assert.deepEqual(warnings(core), []);
  for (let step = 2; step <= 100; step++)
    tell(core, step, { snapshotSkipped: true, savePutOff: step % 50 === 0 });
  assert.deepEqual(
    [counted(core, "goku_snapshots_skipped_total"), counted(core, "goku_saves_put_off_total")],
    [99, 2],
  );
  assert.deepEqual(warnings(core), [
    "step 2 has no snapshot: some rank had no slot free, since saves, previews or copies to other nodes still read the others; a fault costs more steps (so far 1 snapshots were skipped and 0 saves put off, told at most every ten minutes)",
  ]);
  core.take();
  core.nowMs += 600_000;
  tell(core, 101, { savePutOff: true });
  assert.match(
    warnings(core).join(),
    /^step 101 makes the save of the step before.*so far 99 snapshots .* 3 saves/,
  );
  const { missed } = jobView(core.state, "job-1", core.nowMs)!;
  assert.deepEqual([missed.snapshots, missed.saves], [99, 3]);
});
