import assert from "node:assert/strict";
import { test } from "node:test";
import type { StateName } from "../../../checkpoint/state.js";
import { GokuError } from "../../../job/errors.js";
import { type Job, jobSchema } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { ReplicaLedger } from "../../../worker/rank/replica_ledger.js";
import { SLOT_COUNT, SlotBook } from "../../../worker/rank/slots.js";
import { TrainLoop, type TrainLoopOptions } from "../../../worker/rank/train_loop.js";
import type { FromRank } from "../../../worker/rank_messages.js";

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
  seal: (step: number) => void,
  start: StateName = { generation: "1", step: 0 },
  job: Job = JOB,
) {
  const sent: FromRank[] = [];
  const book = new SlotBook(Array(SLOT_COUNT).fill(null));
  book.take();
  book.restoredTo(start);
  let flags = {};
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
      vote: (step: number, said: object) => {
        flags = said;
        return { step, loss: 1, finite: true, excluded: [step], ...said };
      },
      apply: () => ({ applied: true, lr: 0, gradNorm: 1, loss: 1 }),
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
    progress: { set: () => {} },
    controlPage: new Uint8Array(PAGE_BYTES),
    pages: {
      slotPath: (index: number) => `slot-${index}`,
      begin: () => null,
      sum: () => {},
      seal: (_: number, content: { meta: { state: StateName } }) => seal(content.meta.state.step),
    },
    book,
    replicas: new ReplicaLedger(book),
    run: { state: start, parent: null, durable: false },
    requests: { save: false, stop: false },
    send: (message: FromRank) => {
      sent.push(message);
      if (message.kind === "save") setImmediate(() => loop.saved(message.state, null));
    },
  };
  const loop: TrainLoop = new TrainLoop(options as unknown as TrainLoopOptions);
  const saves = () =>
    sent.flatMap((message) => (message.kind === "save" ? [[message.state.step, message.reason]] : []));
  const failures = () => sent.filter((message) => message.kind === "snapshotFailed");
  return { loop, sent, saves, failures, announced, excluded, flags: () => flags };
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

test("TrainLoop saves a step later what could not be sealed when it was due", async () => {
  const { loop, saves } = loopOf((step) => step === 2 && full());
  await loop.train();
  assert.deepEqual(saves(), [
    [3, "periodic"],
    [4, "periodic"],
    [6, "final"],
  ]);
});

test("TrainLoop tells once that seals fail, again after one that succeeded, and goes on", async () => {
  const { loop, failures } = loopOf((step) => [1, 2, 3, 5].includes(step) && full());
  await loop.train();
  const told = failures().map((message) => "code" in message && [message.state.step, message.code]);
  assert.deepEqual(told, [
    [1, "STORAGE_FULL"],
    [5, "STORAGE_FULL"],
  ]);
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
