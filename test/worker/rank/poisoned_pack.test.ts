import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { readSnapshotHeader } from "../../../checkpoint/snapshot.js";
import type { Job } from "../../../job/job.js";
import type { PackBatch } from "../../../worker/data/pack_batch.js";
import type { FromRank, RollBackSteps, StepMetrics } from "../../../worker/rank_messages.js";
import { Rank, smallJob, sourceOf } from "./rank_harness.js";

/**
 * A rank on its own, whose real losses and gradients a poisoned pack makes spikes: its numbers are a thousand times too large.
 */
const STEPS = 24;
const POISONED = 20;

const base = mkdtempSync("/dev/shm/goku-test-poisoned-");
after(() => rmSync(base, { recursive: true }));
let folders = 0;

const poisoned = (pack: PackBatch, step: number): PackBatch =>
  step === POISONED ? { ...pack, data: pack.data.map((value) => 1_000 * value) } : pack;
/** As a run has it that never computes that pack. */
const missing = (pack: PackBatch, step: number): PackBatch =>
  step === POISONED ? { ...pack, data: pack.data.map(() => Number.NaN) } : pack;

/** Trains from initial values to the end; what was told of each step, and of the end. */
async function train(
  recovery: Partial<Job["recovery"]>,
  change: (pack: PackBatch, step: number) => PackBatch,
  rollBacks: RollBackSteps[] = [],
) {
  const folder = path.join(base, String(folders++));
  const set = path.join(folder, "set");
  mkdirSync(set, { recursive: true });
  const plain = smallJob({ steps: STEPS, checkpoint: { every_steps: 1_000 } });
  const job: Job = { ...plain, recovery: { ...plain.recovery, ...recovery } };
  const steps = new Map<number, StepMetrics>();
  const finals: string[] = [];
  const onAnswer = (answer: FromRank) => {
    if (answer.kind === "step") steps.set(answer.metrics.step, answer.metrics);
    if (answer.kind !== "save") return;
    finals.push(answer.slotPath);
    rank.tell({ kind: "unpin", state: answer.state, error: null });
  };
  const openSource = async () => sourceOf(job, "data", change);
  const rank: Rank = new Rank({ job, folder, onAnswer, openSource });
  assert.equal((await rank.prepare("1", set)).kind, "ready");
  assert.equal((await rank.connect("1")).kind, "connected");
  const command = { kind: "restore", generation: "1", source: { kind: "initial" }, rollBacks } as const;
  assert.equal((await rank.ask({ ...command, rollBacks }, "restored")).kind, "restored");
  const end = await rank.ask({ kind: "run", generation: "1" }, "finished");
  const final = finals.at(-1);
  return { steps, end, meta: final === undefined ? null : readSnapshotHeader(final)!.meta };
}
const losses = ({ steps }: { steps: Map<number, StepMetrics> }) =>
  [...steps].filter(([step]) => step !== POISONED).map(([step, { loss }]) => [step, loss]);

test("a poisoned pack makes a spike of the loss and of the gradient norm, and is left out: the losses are those of a run without it", async () => {
  const run = await train({ spike: "skip" }, poisoned);
  const { replay, applied, leftOut } = run.steps.get(POISONED)!;
  assert.deepEqual([applied, leftOut], [false, "spike"]);
  const { loss, gradient } = replay!;
  assert.ok(loss !== null && loss.value > 100 * loss.median, `loss ${loss?.value}, usual ${loss?.median}`);
  assert.ok(gradient !== null && gradient.value > gradient.limit, `norm ${gradient?.value}`);
  assert.deepEqual([replay!.lossRanks, replay!.normRanks], [[], []], "bit for bit the same again");
  const without = await train({}, missing);
  assert.deepEqual(losses(run), losses(without));
  assert.deepEqual(run.meta!.numbers, without.meta!.numbers);
  assert.deepEqual(run.meta!.leftOut, [{ first: POISONED, last: POISONED, why: "spike" }]);
});

test("a poisoned pack is applied where the job says nothing, and the losses that follow are others", async () => {
  const run = await train({}, poisoned);
  assert.equal(run.steps.get(POISONED)!.applied, true);
  assert.equal(run.meta!.adamStep, STEPS);
  assert.notDeepEqual(losses(run), losses(await train({}, missing)));
});

test("a poisoned pack ends the generation where it is to be rolled back; the next one leaves those steps out", async () => {
  const first = await train({ spike: "roll_back", roll_back_steps: 3 }, poisoned);
  assert.equal(first.end.kind === "failed" && first.end.code, "ROLLED_BACK");
  const { rollBack } = first.steps.get(POISONED)!;
  assert.deepEqual(rollBack, { first: 18, last: 20 });
  const second = await train({ spike: "roll_back" }, poisoned, [rollBack!]);
  assert.equal(second.end.kind, "finished");
  assert.equal(second.meta!.adamStep, STEPS - 3);
  assert.deepEqual(second.meta!.leftOut, [{ first: 18, last: 20, why: "roll_back" }]);
  for (const [step, loss] of losses(first)) {
    if (step! < 18) assert.equal(second.steps.get(step!)!.loss, loss);
  }
});
