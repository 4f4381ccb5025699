import assert from "node:assert/strict";
import { test } from "node:test";
import type { StateMeta, StateName } from "../../../checkpoint/state.js";
import { GokuError } from "../../../job/errors.js";
import { type Job, jobSchema } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import { nothingSeen } from "../../../job/spikes.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { ReplicaLedger } from "../../../worker/rank/replica_ledger.js";
import { SLOT_COUNT, SlotBook } from "../../../worker/rank/slots.js";
import { TrainLoop, type TrainLoopOptions } from "../../../worker/rank/train_loop.js";
import type { FromRank, RollBackSteps } from "../../../worker/rank_messages.js";

type RunHistory = Pick<StateMeta, "leftOut" | "numbers">;

const STEPS = 6;
const JOB = jobSchema.parse({
  name: "loop",
  model: { preset: "goku-nano" },
  data: { media: "unused" },
  train: { steps: STEPS },
  checkpoint: { uri: "file:///unused", every_steps: 2, snapshot_every_steps: 1 },
});

/**
 * The loop alone: a trainer that computes nothing, slots without memory, one rank. `seal` is called for every slot that is
 * sealed and may throw; saves are durable at once.
 */
function loopOf(
  seal: (step: number, meta: StateMeta) => void,
  start: StateName = { generation: "1", step: 0 },
  job: Job = JOB,
  finiteAt: (step: number, attempt: number) => boolean = () => true,
  damagedAt: (step: number) => number = () => 0,
  history: Partial<
    { lossAt: (step: number, attempt: number) => number; rollBacks: RollBackSteps[] } & RunHistory
  > = {},
) {
  const { lossAt = () => 1, rollBacks = [], leftOut = [], numbers = nothingSeen() } = history;
  const applied: number[] = [];
  const sent: FromRank[] = [];
  const spoilt: string[] = [];
  const book = new SlotBook(Array(SLOT_COUNT).fill(null));
  book.take();
  book.restoredTo(start);
  let flags = {};
  /** Step of each snapshot that was made; null: one that could not be. */
  const made: (number | null)[] = [];
  const excluded: [number, number[]][] = [];
  const announced: { step: number; index: number }[][] = [];
  const options = {
    job,
    layout: Layout.parse("1x1x1"),
    rank: 0,
    generation: "1",
    version: "0",
    trainer: {
      adamStep: 0,
      figures: {},
      computeStep: () => ({ packLosses: new Float64Array(1) }),
      numbers: { packLosses: new Float64Array(1), squaredNorm: 1 },
      vote: (step: number, said: object, earlier: object | null) => {
        flags = said;
        const numbersFinite = finiteAt(step, earlier === null ? 1 : 2);
        const isSame = lossAt(step, 1) === lossAt(step, 2);
        const differences =
          earlier === null
            ? null
            : [{ losses: !isSame || numbersFinite === !finiteAt(step, 1), norm: false }];
        const loss = lossAt(step, earlier === null ? 1 : 2);
        const packLosses = [numbersFinite ? loss : Number.NaN];
        return {
          step,
          loss,
          gradNorm: 1,
          finite: numbersFinite,
          numbersFinite,
          packLosses,
          differences,
          excluded: [step],
          ...said,
        };
      },
      apply: (step: number, vote: { finite: boolean; loss: number }) => {
        if (vote.finite) applied.push(step);
        return { applied: vote.finite, lr: 0, gradNorm: 1, loss: vote.loss };
      },
    },
    source: {
      digest: "d",
      codec: null,
      pack: async () => null,
      plan: () => ({ tokens: 0, fill: 1 }),
      exclusions: [],
      exclude: (step: number, places: number[]) => excluded.push([step, places]),
      announce: (packs: { step: number; index: number }[]) => announced.push(packs),
    },
    progress: {
      set: () => {},
      stepped: () => {},
      takePauseSeconds: () => 0,
      snapshotMade: (step: number) => made.push(step),
      snapshotFailed: () => made.push(null),
    },
    controlPage: new Uint8Array(PAGE_BYTES),
    pages: {
      slotPath: (index: number) => `slot-${index}`,
      spoil: (file: string) => spoilt.push(file),
      states: () => book.slots.map(({ index, state }) => (spoilt.includes(`slot-${index}`) ? null : state)),
      seal: (_: number, { meta }: { meta: StateMeta }) => seal(meta.state.step, structuredClone(meta)),
    },
    memory: {
      copying: false,
      begin: () => null,
      copyStart: () => {},
      copied: () => {},
      damaged: () => {
        const damaged = damagedAt(options.run.state.step);
        if (damaged > 0) spoilt.push(`slot-${book.live!.index}`);
        return damaged;
      },
    },
    book,
    replicas: new ReplicaLedger(book),
    run: { state: start, parent: null, durable: false, leftOut, numbers: structuredClone(numbers) },
    rollBacks,
    requests: { save: false, stop: false, yield: false },
    twins: null,
    send: (message: FromRank) => {
      sent.push(message);
      if (message.kind === "save") setImmediate(() => loop.saved(message.state, null));
    },
  };
  const loop: TrainLoop = new TrainLoop(options as unknown as TrainLoopOptions);
  const saves = () =>
    sent.flatMap((message) => (message.kind === "save" ? [[message.state.step, message.reason]] : []));
  const failures = () => sent.filter((message) => message.kind === "snapshotFailed");
  return { loop, book, sent, made, saves, failures, announced, excluded, applied, flags: () => flags };
}

const full = () => {
  throw new GokuError("STORAGE_FULL", "no room");
};

test("TrainLoop saves every few steps and at the end, each state once", async () => {
  const { loop, saves, failures } = loopOf(() => {});
  await loop.train();
  assert.deepEqual(saves(), [
    [2, "periodic"],
    [4, "periodic"],
    [6, "final"],
  ]);
  assert.deepEqual(failures(), []);
});

test("TrainLoop tells of a snapshot that it left out since no slot was free, and of no other", async () => {
  const { loop, book, sent } = loopOf(() => {});
  for (const slot of book.slots) if (slot !== book.live) slot.pins = 1;
  await loop.train();
  const steps = sent.flatMap((message) => (message.kind === "step" ? [message.metrics] : []));
  assert.deepEqual(
    steps.map(({ step, snapshotSkipped, savePutOff }) => [step, snapshotSkipped, savePutOff]),
    [1, 2, 3, 4, 5, 6].map((step) => [step, step === 1, false]),
  );
});

test("TrainLoop tells of a save that is made a step later, since its snapshot could not be sealed", async () => {
  const { loop, saves, sent } = loopOf((step) => step === 2 && full());
  await loop.train();
  assert.deepEqual(saves()[0], [3, "periodic"]);
  const late = sent.flatMap((message) =>
    message.kind === "step" && message.metrics.savePutOff ? [message.metrics.step] : [],
  );
  assert.deepEqual(late, [3]);
});

test("TrainLoop ends before the vote when the state it computes with has changed in memory, and keeps the one before", async () => {
  const start = { generation: "1", step: 0 };
  const { loop, book, sent } = loopOf(
    () => {},
    start,
    JOB,
    () => true,
    (step) => (step === 3 ? 2 : 0),
  );
  await assert.rejects(loop.train(), (error: GokuError) => {
    assert.equal(error.code, "RANK_CORRUPT");
    assert.match(error.message, /^Cannot go on with step 3 of generation 1: .*in 2 chunks of a MiB/);
    return true;
  });
  assert.equal(book.find({ generation: "1", step: 3 }), null, "nobody is to restore it");
  assert.notEqual(book.find({ generation: "1", step: 2 }), null);
  assert.ok(!sent.some((message) => message.kind === "step" && message.metrics.step > 3));
});

const PREVIEWED: Job = {
  ...JOB,
  sample: { ...JOB.sample, every_steps: 2, prompts: ["a red circle"] },
};

test("TrainLoop says that a preview is due once the next vote has found its state whole everywhere", async () => {
  const { loop, sent } = loopOf(() => {}, undefined, PREVIEWED);
  await loop.train();
  const order = sent.flatMap((message) => {
    if (message.kind === "preview") return [`preview of ${message.state.step}: ${message.skipped}`];
    return message.kind === "step" ? [`step ${message.metrics.step}`] : [];
  });
  const [first, second] = ["preview of 2: null", "preview of 4: null"];
  assert.deepEqual(order, ["step 1", "step 2", first, "step 3", "step 4", second, "step 5", "step 6"]);
});

test("TrainLoop leaves a preview out, and says why, when its state cannot be sealed", async () => {
  const { loop, sent } = loopOf((step) => step === 2 && full(), undefined, PREVIEWED);
  await loop.train();
  const told = sent.flatMap((message) => (message.kind === "preview" ? [message] : []));
  assert.deepEqual(
    told.map(({ state, skipped }) => [state.step, skipped]),
    [
      [2, "some rank could not keep the state in memory"],
      [4, null],
    ],
  );
});

test("TrainLoop saves a step later what could not be sealed when it was due", async () => {
  const { loop, saves } = loopOf((step) => step === 2 && full());
  await loop.train();
  assert.deepEqual(saves(), [
    [3, "periodic"],
    [4, "periodic"],
    [6, "final"],
  ]);
});

test("TrainLoop tells once that seals fail, again after one that succeeded, counts each, and goes on", async () => {
  const { loop, failures, made } = loopOf((step) => [1, 2, 3, 5].includes(step) && full());
  await loop.train();
  const told = failures().map((message) => "code" in message && [message.state.step, message.code]);
  assert.deepEqual(told, [
    [1, "STORAGE_FULL"],
    [5, "STORAGE_FULL"],
  ]);
  assert.deepEqual(made, [0, null, null, null, 4, null, 6]);
});

test("TrainLoop ends with the error when the last state cannot be sealed, instead of waiting for ever", async () => {
  const { loop, saves } = loopOf((step) => step === STEPS && full());
  await assert.rejects(loop.train(), { code: "STORAGE_FULL" });
  assert.deepEqual(saves(), [
    [2, "periodic"],
    [4, "periodic"],
  ]);
});

test("TrainLoop votes that the restored state is not whole when its first seal fails", async () => {
  const { loop, flags } = loopOf((step) => step === STEPS - 1 && full(), {
    generation: "1",
    step: STEPS - 1,
  });
  await loop.train();
  assert.deepEqual(flags(), {
    snapshotWhole: false,
    slotFree: true,
    replicated: true,
    replicaLost: false,
    save: false,
    stop: false,
    yield: false,
  });
});

test("TrainLoop announces the packs of this step and of later ones, as many as may be ready at once", async () => {
  const stepsAnnounced = async (packs: number) => {
    const job = { ...JOB, train: { ...JOB.train, packs_per_step: packs } };
    const { loop, announced } = loopOf(() => {}, { generation: "1", step: 3 }, job);
    await loop.train();
    return announced.map((list) => {
      assert.equal(list.length % packs, 0);
      return [...new Set(list.map(({ step }) => step))];
    });
  };
  assert.deepEqual(await stepsAnnounced(21), [[4, 5, 6], [5, 6], [6]]);
  assert.deepEqual(await stepsAnnounced(22), [[4, 5], [5, 6], [6]]);
  assert.deepEqual(await stepsAnnounced(200), [[4, 5], [5, 6], [6]]);
});

test("TrainLoop has the samples of each vote left out", async () => {
  const { loop, excluded } = loopOf(() => {}, { generation: "1", step: 4 });
  await loop.train();
  assert.deepEqual(excluded, [
    [5, [5]],
    [6, [6]],
  ]);
});

const stepsOf = (sent: readonly FromRank[]) =>
  sent.flatMap((message) => (message.kind === "step" ? [message.metrics] : []));

test("TrainLoop computes a step again whose numbers are not finite, and tells what that has shown", async () => {
  const { loop, sent } = loopOf(
    () => {},
    undefined,
    JOB,
    (step, attempt) => step !== 3 || attempt === 2,
  );
  await loop.train();
  assert.deepEqual(
    stepsOf(sent).map(({ step, replay }) => [step, replay]),
    [
      [1, null],
      [2, null],
      [3, { packs: [0], lossRanks: [0], normRanks: [], homeRanks: [], loss: null, gradient: null }],
      [4, null],
      [5, null],
      [6, null],
    ],
  );
});

test("TrainLoop goes on after bad steps, and fails with the state durable after as many in a row as may be", async () => {
  const job = { ...JOB, recovery: { ...JOB.recovery, max_bad_steps: 2 } };
  const passing = loopOf(
    () => {},
    undefined,
    job,
    (step) => step !== 2 && step !== 4,
  );
  await passing.loop.train();
  assert.equal(stepsOf(passing.sent).length, STEPS);
  const { loop, saves, sent } = loopOf(
    () => {},
    undefined,
    job,
    (step) => step < 4,
  );
  await assert.rejects(loop.train(), { code: "NOT_FINITE", message: /of steps 4 to 5 are not finite/ });
  assert.deepEqual(saves().at(-1), [5, "final"]);
  assert.ok(!sent.some(({ kind }) => kind === "finished"));
});

test("TrainLoop fails at the first bad step where the job says so", async () => {
  const job: Job = { ...JOB, recovery: { ...JOB.recovery, bad_step: "stop" } };
  const { loop, saves } = loopOf(
    () => {},
    undefined,
    job,
    (step) => step !== 3,
  );
  await assert.rejects(loop.train(), { code: "NOT_FINITE", message: /of step 3 are not finite/ });
  assert.deepEqual(saves().at(-1), [3, "final"]);
});

/** What a run has seen that trained calmly so far. */
const CALM = {
  loss: { values: Array(20).fill(1), spikes: 0 },
  gradient: { values: Array(20).fill(1), spikes: 0 },
};
const withPolicy = (recovery: Partial<Job["recovery"]>): Job => ({
  ...JOB,
  recovery: { ...JOB.recovery, ...recovery },
});

/** A run of six steps whose losses are spikes at some, with what it leaves in the meta of each step. */
async function spiky(
  recovery: Partial<Job["recovery"]>,
  lossAt: (step: number, attempt: number) => number,
  history: Partial<RunHistory & { rollBacks: RollBackSteps[] }> = {},
  start?: StateName,
) {
  const metas = new Map<number, StateMeta>();
  const found = loopOf(
    (step, meta) => metas.set(step, meta),
    start,
    withPolicy(recovery),
    undefined,
    undefined,
    {
      numbers: CALM,
      ...history,
      lossAt,
    },
  );
  const error = await found.loop.train().then(
    () => null,
    (thrown: GokuError) => thrown,
  );
  return { ...found, metas, error, steps: stepsOf(found.sent) };
}
const NINE_AT_3 = (step: number) => (step === 3 ? 9 : 1);

test("TrainLoop applies a spike that is the same again, once it is told that it begins, and remembers none of it", async () => {
  const high = (step: number) => (step === 3 || step === 4 ? 9 : 1);
  const { steps, applied, metas } = await spiky({}, high);
  assert.deepEqual(applied, [1, 2, 3, 4, 5, 6]);
  const replayed = steps.filter(({ replay }) => replay !== null);
  assert.deepEqual(
    replayed.map(({ step, replay }) => [step, replay!.loss, replay!.lossRanks]),
    [[3, { value: 9, limit: 3, median: 1 }, []]],
    "the second of a row is not computed again",
  );
  assert.deepEqual(
    steps.map(({ lossSpike }) => lossSpike?.kind ?? null),
    [null, null, "begins", null, "ends", null],
  );
  assert.deepEqual(metas.get(4)!.numbers.loss, { values: Array(22).fill(1), spikes: 2 });
  assert.deepEqual(metas.get(6)!.leftOut, []);
});

test("TrainLoop skips a spike where the job says so: the record of the state names it, the next steps are compared with those before", async () => {
  const { steps, applied, metas } = await spiky({ spike: "skip" }, NINE_AT_3);
  assert.deepEqual(applied, [1, 2, 4, 5, 6]);
  assert.deepEqual(metas.get(6)!.leftOut, [{ first: 3, last: 3, why: "spike" }]);
  assert.deepEqual(
    steps.map(({ leftOut }) => leftOut),
    [null, null, "spike", null, null, null],
  );
  assert.equal(metas.get(6)!.numbers.loss.values.length, 20 + 5);
  assert.equal(
    metas.get(3)!.numbers.gradient.values.length,
    20 + 2,
    "nothing of a step that was not applied",
  );
});

test("TrainLoop applies what is no spike the second time, whatever the job says of spikes", async () => {
  for (const spike of ["apply", "skip", "roll_back", "stop"] as const) {
    const { steps, applied, error } = await spiky({ spike }, (step, attempt) =>
      step === 3 && attempt === 1 ? 9 : 1,
    );
    assert.deepEqual([applied.length, error], [STEPS, null], spike);
    assert.deepEqual(steps[2]!.replay!.lossRanks, [0]);
    assert.equal(steps[2]!.lossSpike, null);
  }
});

test("TrainLoop stops at a spike where the job says so, the state before the optimizer durable", async () => {
  const { error, saves, applied } = await spiky({ spike: "stop" }, NINE_AT_3);
  assert.equal(error?.code, "NUMBERS_SPIKED");
  assert.match(
    error!.message,
    /of step 3 are far above those before, also when computed again, and 1 in a row may be/,
  );
  assert.deepEqual(
    [saves().at(-1), applied],
    [
      [3, "final"],
      [1, 2],
    ],
  );
});

test("TrainLoop ends its generation at a spike that is to be rolled back, with no state of it and nothing of it in what was seen", async () => {
  const { error, sent, steps, metas, applied } = await spiky(
    { spike: "roll_back", roll_back_steps: 2 },
    NINE_AT_3,
  );
  assert.equal(error, null);
  const last = sent.at(-1)!;
  assert.ok(last.kind === "failed");
  assert.equal(last.code, "ROLLED_BACK");
  assert.match(
    last.message,
    /^Cannot go on from step 3: .* goes back to step 1, and steps 2 to 3 are left out$/,
  );
  assert.deepEqual([steps.length, steps[2]!.rollBack, steps[2]!.applied], [3, { first: 2, last: 3 }, false]);
  assert.deepEqual(
    [applied, [...metas.keys()]],
    [
      [1, 2],
      [0, 1, 2],
    ],
  );
  assert.equal(metas.get(2)!.numbers.loss.spikes, 0);
});

test("TrainLoop leaves out what was rolled back before, by its votes alone, and says so in every later state", async () => {
  const rollBacks = [{ first: 2, last: 3 }];
  const { steps, applied, metas, announced } = await spiky({ spike: "roll_back" }, NINE_AT_3, { rollBacks });
  assert.deepEqual(applied, [1, 4, 5, 6]);
  const record = [{ first: 2, last: 3, why: "roll_back" }];
  assert.deepEqual(metas.get(0)!.leftOut, [], "the restored state stays as it is");
  for (const step of [1, 2, 6]) assert.deepEqual(metas.get(step)!.leftOut, record, `step ${step}`);
  assert.deepEqual(
    steps.map(({ step, loss, leftOut }) => [step, loss, leftOut]),
    [
      [1, 1, null],
      [2, null, "roll_back"],
      [3, null, "roll_back"],
      [4, 1, null],
      [5, 1, null],
      [6, 1, null],
    ],
  );
  assert.deepEqual(
    announced.map(([first]) => first!.step),
    [1, 4, 5, 6],
    "no packs are asked for",
  );
  const again = await spiky(
    { spike: "roll_back" },
    NINE_AT_3,
    { leftOut: metas.get(1)!.leftOut },
    { generation: "1", step: 1 },
  );
  assert.deepEqual(again.applied, [4, 5, 6], "known from the state alone");
});

test("TrainLoop gives up where so many roll-backs have led to another one", async () => {
  const leftOut = [{ first: 1, last: 2, why: "roll_back" as const }];
  const recovery = { spike: "roll_back", max_roll_backs: 1 } as const;
  const { error } = await spiky(recovery, NINE_AT_3, { leftOut }, { generation: "1", step: 2 });
  assert.equal(error?.code, "NUMBERS_SPIKED");
  assert.match(error!.message, /and the run was rolled back 1 times right before/);
  const more = await spiky(
    { ...recovery, max_roll_backs: 2 },
    NINE_AT_3,
    { leftOut },
    { generation: "1", step: 2 },
  );
  assert.equal(more.steps.at(-1)!.rollBack?.last, 3);
});

test("TrainLoop rolls back steps that are not finite, too, and never for a device that was wrong", async () => {
  const job = withPolicy({ bad_step: "roll_back", roll_back_steps: 1 });
  const data = loopOf(
    () => {},
    undefined,
    job,
    (step) => step !== 4,
  );
  await data.loop.train();
  assert.deepEqual(stepsOf(data.sent).at(-1)!.rollBack, { first: 4, last: 4 });
  const wrong = loopOf(
    () => {},
    undefined,
    job,
    (step, attempt) => step !== 4 || attempt === 2,
  );
  await wrong.loop.train();
  assert.equal(wrong.applied.length, STEPS);
});

test("TrainLoop decides alike whether a run goes on or was restored in the middle of it", async () => {
  const losses = (step: number) => [1, 1.5, 9, 0.8, 8, 1.1][step - 1]!;
  const whole = await spiky({ spike: "skip" }, losses);
  for (let step = 1; step < STEPS; step++) {
    const { leftOut, numbers } = JSON.parse(JSON.stringify(whole.metas.get(step))) as StateMeta;
    const rest = await spiky({ spike: "skip" }, losses, { leftOut, numbers }, { generation: "1", step });
    assert.deepEqual(
      rest.applied,
      whole.applied.filter((each) => each > step),
      `from step ${step}`,
    );
    assert.deepEqual(rest.metas.get(STEPS), whole.metas.get(STEPS));
  }
});
