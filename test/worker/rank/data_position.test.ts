import assert from "node:assert/strict";
import { test } from "node:test";
import { isGivenUp } from "../../../controller/core/roll_back.js";
import { dealtPack } from "../../../job/deal.js";
import { jobSchema } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import { isLeftOut, type LeftOut, rollBackOf, withLeftOut } from "../../../job/left_out.js";
import { Packer } from "../../../job/packer.js";
import { decideFate } from "../../../worker/rank/decide_fate.js";
import { ownPacks } from "../../../worker/rank/own_packs.js";
import { Random } from "../../sim/random.js";

/**
 * Which samples a run has learnt from by its last step follows from its data and its bad steps alone, whatever broke on the way: a
 * model of runs that decide as ranks do, and go back as the controller lets them, in ever other layouts.
 */
const STEPS = 90;
const PACKS = 5;
const SEEDS = 300;
const LAYOUTS = ["1x1x1", "1x2x2", "2x2x1", "1x3x1", "1x5x1", "2x3x2"].map((text) => Layout.parse(text));
const { recovery: usual } = jobSchema.parse({
  name: "j",
  data: { media: "m" },
  train: { steps: STEPS },
  checkpoint: { uri: "file:///run" },
});
const RECOVERY = { ...usual, spike: "roll_back", max_bad_steps: STEPS, max_roll_backs: STEPS } as const;
/** The same of every spike and every step that is not finite. */
type BadSteps = ReadonlyMap<number, "spike" | "not_finite">;

interface State {
  generation: number;
  step: number;
  leftOut: readonly LeftOut[];
  /** How often each sample was learnt from. */
  consumed: ReadonlyMap<number, number>;
}
const INITIAL: State = { generation: 0, step: 0, leftOut: [], consumed: new Map() };

function packerOf(seed: number): Packer {
  const random = new Random(seed);
  const sizes = Array.from({ length: 70 }, () => 8 + 8 * Math.floor(random.unit() * 12));
  return new Packer({ sizes, tokensPerPack: 128, seed });
}

/** What all ranks of a layout together compute in a step: the packs of one rank of each sequence group. */
function learn(packer: Packer, layout: Layout, { consumed, step }: State): Map<number, number> {
  const after = new Map(consumed);
  for (let rank = 0; rank < layout.worldSize; rank++) {
    if (layout.coordinates(rank).sequence !== 0) continue;
    for (const [round, own] of ownPacks(layout, rank, PACKS).entries()) {
      if (own === null) continue;
      assert.equal(own, dealtPack(layout, rank, { round, moved: 0 }));
      const { samples } = packer.pack(step * PACKS + own);
      for (const sample of samples) after.set(sample, (after.get(sample) ?? 0) + 1);
    }
  }
  return after;
}

interface History {
  random: Random;
  /** How likely a generation ends with a step. */
  faults: number;
  back: number;
}

/** Runs to the last step, through faults that take some of what is in memory and in storage along. */
function run(packer: Packer, bad: BadSteps, { random, faults, back }: History): State {
  const recovery = { ...RECOVERY, roll_back_steps: back };
  const rollBacks: { generation: number; first: number; last: number }[] = [];
  let kept: State[] = [];
  let state = INITIAL;
  for (let generation = 1; ; generation++) {
    const layout = LAYOUTS[Math.floor(random.unit() * LAYOUTS.length)]!;
    const directives = rollBacks.map(({ first, last }): LeftOut => ({ first, last, why: "roll_back" }));
    let known = directives.reduce<readonly LeftOut[]>(withLeftOut, state.leftOut);
    while (state.step < STEPS && random.unit() >= faults) {
      const step = state.step + 1;
      const why = bad.get(step);
      const isUndone = rollBackOf(known, step) !== null;
      const fate = isUndone
        ? ({ kind: "skip", why: "roll_back" } as const)
        : decideFate({
            step,
            vote: { finite: why !== "not_finite" },
            bad: why === undefined ? null : { why, isTaken: false },
            replay: null,
            recovery,
            leftOut: known,
            badSteps: 0,
          });
      if (fate.kind === "rollBack") {
        rollBacks.push({ generation, first: fate.to + 1, last: step });
        break;
      }
      if (fate.kind === "skip" && !isUndone)
        known = withLeftOut(known, { first: step, last: step, why: fate.why });
      const consumed = fate.kind === "apply" ? learn(packer, layout, state) : state.consumed;
      state = { generation, step, leftOut: known, consumed };
      kept.push(state);
    }
    if (state.step === STEPS) return state;
    kept = kept.filter((each) => !isGivenUp(rollBacks, each) && random.unit() < 0.8);
    state = kept.at(-1) ?? INITIAL;
  }
}

test(`the samples that a run has learnt from are those of all packs but the ones left out, after any history of faults, layouts and roll-backs: ${SEEDS} seeds`, () => {
  let [rolledBack, skipped] = [0, 0];
  for (let seed = 1; seed <= SEEDS; seed++) {
    const random = new Random(seed);
    const packer = packerOf(seed);
    const bad = new Map<number, "spike" | "not_finite">();
    for (let i = 0; i < 4; i++) {
      const first = 1 + Math.floor(random.unit() * STEPS);
      const why = random.unit() < 0.6 ? "spike" : "not_finite";
      for (let step = first; step < first + 1 + Math.floor(random.unit() * 3); step++) bad.set(step, why);
    }
    const back = 1 + Math.floor(random.unit() * 12);
    const calm = run(packer, bad, { random, faults: 0, back });
    const harmed = run(packer, bad, { random, faults: 0.05, back });
    const where = `seed ${seed}`;
    assert.deepEqual(harmed.leftOut, calm.leftOut, where);
    assert.deepEqual(sorted(harmed.consumed), sorted(calm.consumed), where);
    const wanted = new Map<number, number>();
    for (let step = 1; step <= STEPS; step++) {
      if (isLeftOut(calm.leftOut, step)) continue;
      assert.ok(!bad.has(step), where);
      for (let i = 0; i < PACKS; i++)
        for (const sample of packer.pack((step - 1) * PACKS + i).samples)
          wanted.set(sample, (wanted.get(sample) ?? 0) + 1);
    }
    assert.deepEqual(sorted(calm.consumed), sorted(wanted), where);
    for (const { why } of calm.leftOut) {
      if (why === "roll_back") rolledBack += 1;
      else skipped += 1;
    }
  }
  assert.ok(
    rolledBack > SEEDS && skipped > SEEDS / 2,
    `${rolledBack} roll-backs, ${skipped} stretches skipped`,
  );
});

function sorted(consumed: ReadonlyMap<number, number>): [number, number][] {
  return [...consumed].sort(([a], [b]) => a - b);
}
