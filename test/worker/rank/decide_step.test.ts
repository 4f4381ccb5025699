import assert from "node:assert/strict";
import { test } from "node:test";
import { sampleSchema } from "../../../job/sample_spec.js";
import { decideStep, isPeriodicSave, type StepOutcome } from "../../../worker/rank/decide_step.js";

const job = {
  train: { steps: 100, packs_per_step: 4, tokens_per_pack: 512 },
  checkpoint: {
    uri: "file:///run",
    every_steps: 20,
    keep_last: 3,
    keep_every: null,
    snapshot_every_steps: 5,
    replicas: 1,
    replica_mib_per_second: null,
  },
  sample: sampleSchema.parse({ every_steps: 8, prompts: ["a red circle"] }),
};
const nothing = { save: null, saveOwed: false };
const calm: StepOutcome = {
  step: 7,
  snapshotWhole: true,
  slotFree: true,
  save: false,
  stop: false,
  yield: false,
  giveUp: false,
  before: nothing,
};
const decide = (change: Partial<StepOutcome>) => decideStep(job, { ...calm, ...change });

/** Nothing that was due is missing. */
const MADE = { snapshotSkipped: false, savePutOff: false };

test("decideStep() snapshots every snapshot_every_steps only", () => {
  assert.deepEqual(decide({}), {
    snapshot: false,
    save: null,
    preview: null,
    saveOwed: false,
    ...MADE,
    end: null,
  });
  assert.deepEqual(decide({ step: 10 }), {
    snapshot: true,
    save: null,
    preview: null,
    saveOwed: false,
    ...MADE,
    end: null,
  });
});

test("decideStep() snapshots between, to save on request", () => {
  assert.deepEqual(decide({ save: true }), {
    snapshot: true,
    save: "request",
    preview: null,
    saveOwed: false,
    ...MADE,
    end: null,
  });
});

test("decideStep() owes a save when no slot is free, and pays it with the next free one", () => {
  const owed = decide({ step: 20, slotFree: false });
  const missed = { snapshotSkipped: true, savePutOff: true };
  assert.deepEqual(owed, {
    snapshot: false,
    save: null,
    preview: null,
    saveOwed: true,
    ...missed,
    end: null,
  });
  const still = decide({ step: 21, slotFree: false, before: owed });
  assert.deepEqual(
    [still.saveOwed, still.snapshotSkipped, still.savePutOff],
    [true, true, false],
    "told once",
  );
  const paid = decide({ step: 21, before: owed });
  assert.deepEqual(paid, {
    snapshot: true,
    save: "periodic",
    preview: null,
    saveOwed: false,
    ...MADE,
    end: null,
  });
});

test("decideStep() owes a save again when some rank has no whole snapshot of it", () => {
  const before = { save: "periodic", saveOwed: false } as const;
  assert.equal(decide({ step: 21, before }).save, null);
  const again = decide({ step: 21, before, snapshotWhole: false });
  const late = { snapshotSkipped: false, savePutOff: true };
  assert.deepEqual(again, {
    snapshot: true,
    save: "periodic",
    preview: null,
    saveOwed: false,
    ...late,
    end: null,
  });
  assert.equal(decide({ step: 21, before, snapshotWhole: false, slotFree: false }).saveOwed, true);
  assert.equal(decide({ step: 21, snapshotWhole: false }).save, null, "nothing was to be saved");
});

test("decideStep() has a preview drawn every so many steps, from a snapshot of its own where none is in turn", () => {
  const preview = (change: Partial<StepOutcome>) => {
    const { snapshot, preview: due, saveOwed } = decide(change);
    return [snapshot, due, saveOwed];
  };
  assert.deepEqual(preview({ step: 7 }), [false, null, false]);
  assert.deepEqual(preview({ step: 8 }), [true, "draw", false]);
  assert.deepEqual(preview({ step: 8, slotFree: false }), [false, "noSlot", false], "left out, never owed");
  for (const end of [{ stop: true }, { yield: true }, { giveUp: true }])
    assert.deepEqual(preview({ step: 8, ...end }), [true, null, false], "nothing is drawn of an end");
  assert.equal(decideStep({ ...job, sample: sampleSchema.parse({}) }, { ...calm, step: 8 }).preview, null);
});

test("decideStep() ends at the last step and at a voted stop, with a snapshot for the final save", () => {
  assert.deepEqual(decide({ step: 100 }), {
    snapshot: true,
    save: null,
    preview: null,
    saveOwed: false,
    ...MADE,
    end: "steps",
  });
  assert.deepEqual(decide({ stop: true }), {
    snapshot: true,
    save: null,
    preview: null,
    saveOwed: false,
    ...MADE,
    end: "stop",
  });
  const full = decide({ step: 100, slotFree: false });
  const late = { snapshotSkipped: true, savePutOff: false };
  assert.deepEqual(full, {
    snapshot: false,
    save: null,
    preview: null,
    saveOwed: false,
    ...late,
    end: "steps",
  });
});

test("decideStep() tells of a snapshot that was due and is left out, and not where none was due", () => {
  const skipped = (change: Partial<StepOutcome>) => decide({ slotFree: false, ...change }).snapshotSkipped;
  assert.deepEqual(
    [7, 8, 10, 20].map((step) => skipped({ step })),
    [false, true, true, true],
  );
  assert.deepEqual([skipped({ step: 10, slotFree: true }), skipped({ save: true })], [false, true]);
});

test("isPeriodicSave() is true of multiples of every_steps, never of the initial state", () => {
  assert.deepEqual(
    [0, 19, 20, 40].map((step) => isPeriodicSave(job, step)),
    [false, false, true, true],
  );
});

test("decideStep() yields with the state whole and not saved; a save that was asked for, or the end, goes first", () => {
  const { end, snapshot, save } = decide({ yield: true });
  assert.deepEqual([end, snapshot, save], ["yield", true, null]);
  assert.deepEqual(decide({ yield: true, save: true }).end, null);
  assert.deepEqual(decide({ yield: true, save: true }).save, "request");
  assert.deepEqual(decide({ yield: true, step: job.checkpoint.every_steps }).end, "yield");
  assert.deepEqual(decide({ yield: true, before: { save: null, saveOwed: true } }).end, null);
  assert.deepEqual(decide({ yield: true, stop: true }).end, "stop");
  assert.deepEqual(decide({ yield: true, step: job.train.steps }).end, "steps");
});

test("decideStep() ends the run as a failed one where too many steps were bad, also at its last step", () => {
  const bad = { snapshot: true, save: null, preview: null, saveOwed: false, ...MADE, end: "bad" };
  assert.deepEqual(decide({ giveUp: true }), bad);
  assert.deepEqual(decide({ giveUp: true, step: 100, stop: true }), bad);
});
