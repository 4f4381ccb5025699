import assert from "node:assert/strict";
import { test } from "node:test";
import type { AgentMessage } from "../../../controller/core/contract.js";
import { readReport } from "../../../controller/core/wire.js";
import {
  CheckpointCommitted,
  CollectiveWaits,
  PreviewDrawn,
  StepCompleted,
} from "../../../gen/goku/v1/agent.pb.js";

const BAD = [-1, -1e-9, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e300];
const state = { generation: 1n, step: 7n };

function step(change: Partial<StepCompleted> = {}): AgentMessage {
  const value = StepCompleted.fromPartial({ generation: 1n, step: 7n, stepSeconds: 0.5, ...change });
  return { $case: "stepCompleted", value };
}

test("readReport() refuses a step whose times and sums are no amounts: they are counted, and a sum does not go back", () => {
  assert.equal(readReport(step())?.kind, "step");
  for (const name of [
    "stepSeconds",
    "computeSeconds",
    "commWaitSeconds",
    "dataWaitSeconds",
    "snapshotSeconds",
    "optimizerSeconds",
    "modelFlops",
    "packFill",
    "learningRate",
    "longestPauseSeconds",
  ] as const)
    for (const bad of BAD) assert.equal(readReport(step({ [name]: bad })), null, `${name} ${bad}`);
  for (const name of ["allGather", "reduceScatter", "allReduce", "allToAll", "vote"] as const)
    for (const bad of BAD) {
      const waits = { ...CollectiveWaits.fromPartial({}), [name]: bad };
      assert.equal(readReport(step({ waits })), null, `waits.${name} ${bad}`);
    }
});

test("readReport() takes a step whose loss and gradient norm are not finite: that is what the step is to tell", () => {
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, -3, undefined])
    assert.equal(readReport(step({ loss: value, gradNorm: value }))?.kind, "step", String(value));
});

test("readReport() refuses a save and a preview that took no time that there is", () => {
  const saved = (seconds: number): AgentMessage => ({
    $case: "checkpointCommitted",
    value: CheckpointCommitted.fromPartial({ generation: 1n, state, seconds }),
  });
  const drawn = (seconds: number): AgentMessage => ({
    $case: "previewEnded",
    value: {
      generation: 1n,
      state,
      outcome: { $case: "drawn", value: PreviewDrawn.fromPartial({ seconds }) },
    },
  });
  for (const make of [saved, drawn]) {
    assert.notEqual(readReport(make(1.5)), null);
    for (const bad of BAD) assert.equal(readReport(make(bad)), null, String(bad));
  }
});
