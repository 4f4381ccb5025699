import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { readSnapshotHeader, verifySnapshot } from "../../checkpoint/snapshot.js";
import type { StateName } from "../../checkpoint/state.js";
import { gpuMemory } from "../../job/gpu_memory.js";
import { type Job, modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import type { PackBatch } from "../../worker/data/pack_batch.js";
import type { Native } from "../../worker/engine/native.js";
import type { FromRank } from "../../worker/rank_messages.js";
import { inMemory, native, Rank, smallJob, sourceOf } from "../worker/rank/rank_harness.js";
import { wholeSlots } from "../worker/rank/whole_slots.js";

/**
 * A rank on its own whose state lies on a device: whatever is skipped, saved, cut off or restored, a slot that is whole holds the very
 * bytes of the state whose name it bears, though it left the device beside the next step.
 */
const STEPS = 5;
const GPU = { visible: "0", memoryBytes: 2 ** 33, ranks: 1 };

const base = mkdtempSync("/dev/shm/goku-test-on-device-");
after(() => rmSync(base, { recursive: true }));
let folders = 0;

function jobOf(steps: number, snapshotEvery: number): Job {
  const checkpoint = { every_steps: 1, snapshot_every_steps: snapshotEvery };
  const job = smallJob({ precision: "bf16", steps, checkpoint });
  return { ...job, recompute: "none", flow: { ...job.flow, drop_text: 0 } };
}

interface Run {
  job: Job;
  /** Steps whose saves stay under way until the end. */
  held?: readonly number[];
  look?: (answer: FromRank, set: string) => void;
  change?: (pack: PackBatch, step: number) => PackBatch;
  /** The backend as the rank sees it. */
  on?: Native;
}

/** A rank that stands before its first step. */
async function startOf({ job, held = [], look, change, on = native }: Run) {
  const folder = path.join(base, String(folders++));
  mkdirSync(folder);
  const set = path.join(folder, "set");
  const heldBack: StateName[] = [];
  const rank: Rank = new Rank({
    job,
    gpu: GPU,
    folder,
    native: () => on,
    openSource: async () => sourceOf(job, "data", change),
    onAnswer: (answer) => {
      look?.(answer, set);
      if (answer.kind !== "save") return;
      if (held.includes(answer.state.step)) heldBack.push(answer.state);
      else rank.tell({ kind: "unpin", state: answer.state, error: null });
    },
  });
  await restore(rank, set, "1", { kind: "initial" });
  const letGo = () => {
    for (const state of heldBack) rank.tell({ kind: "unpin", state, error: null });
  };
  return { rank, set, letGo };
}

async function restore(
  rank: Rank,
  set: string,
  generation: string,
  source: { kind: "initial" } | ReturnType<typeof inMemory>,
) {
  assert.equal((await rank.prepare(generation, set)).kind, "ready");
  assert.equal((await rank.connect(generation)).kind, "connected");
  const restored = await rank.ask({ kind: "restore", generation, source, rollBacks: [] }, "restored");
  assert.equal(restored.kind, "restored", "message" in restored ? restored.message : "");
}

async function train(run: Run): Promise<{ set: string }> {
  const { rank, set, letGo } = await startOf(run);
  const finished = await rank.ask({ kind: "run", generation: "1" }, "finished");
  assert.equal(finished.kind, "finished", "message" in finished ? finished.message : "");
  letGo();
  return { set };
}

/** Each state as the end of a run that ends with it: nothing is computed beside its copy. */
const wanted = (async () => {
  const states = new Map<number, string>();
  for (let step = 1; step <= STEPS; step++) {
    const { set } = await train({ job: jobOf(step, STEPS + 1) });
    states.set(step, wholeSlots(set).get(step)!);
  }
  assert.equal(new Set(states.values()).size, STEPS);
  return states;
})();

/** Returns the steps of the slots that are whole. */
function assertWanted(set: string, wanted: ReadonlyMap<number, string>, what: string): number[] {
  const found = wholeSlots(set);
  for (const [step, digest] of found)
    if (step > 0) assert.equal(digest, wanted.get(step), `${what}: the slot that names step ${step}`);
  return [...found.keys()].sort();
}

test("a slot holds the state it names, though the next step was computed while it left the device", async () => {
  const states = await wanted;
  const seen = new Set<number>();
  const see = (set: string, what: string) => {
    for (const step of assertWanted(set, states, what)) seen.add(step);
  };
  const look = (answer: FromRank, set: string) => {
    if (answer.kind === "save") see(set, `saved ${answer.state.step}`);
  };
  const { set } = await train({ job: jobOf(STEPS, 1), look });
  see(set, "at the end");
  assert.deepEqual([...seen].sort(), [0, 1, 2, 3, 4, 5]);
  for (const name of readdirSync(set)) {
    const file = path.join(set, name);
    if (readSnapshotHeader(file) !== null) assert.equal(await verifySnapshot(file), null);
  }
});

test("a rank whose slots are pinned by saves goes on without snapshots, and its last state is whole", async () => {
  const states = await wanted;
  const saved: number[] = [];
  const look = (answer: FromRank) => {
    if (answer.kind === "save") saved.push(answer.state.step);
  };
  const { set } = await train({ job: jobOf(STEPS, 1), held: [1, 2, 3], look });
  assert.ok(saved.length < STEPS, `some snapshot was skipped: ${saved.join(", ")} were saved`);
  const whole = assertWanted(set, states, "pinned");
  for (const step of [...saved.filter((one) => one <= 3), STEPS])
    assert.ok(whole.includes(step), `step ${step}`);
});

test("a step that is cut off leaves the state before it whole, and its process goes on from there", async () => {
  const states = await wanted;
  const cutOff = 3;
  let broken = true;
  const change = (pack: PackBatch, step: number) => {
    if (broken && step === cutOff) throw new Error("cut off");
    return pack;
  };
  const { rank, set } = await startOf({ job: jobOf(STEPS, 1), change });
  const failed = await rank.ask({ kind: "run", generation: "1" }, "failed");
  assert.match("message" in failed ? failed.message : "", /cut off/);
  assert.ok(assertWanted(set, states, "cut off").includes(cutOff - 1));
  broken = false;
  await goOn(rank, set, cutOff - 1);
  assert.ok(assertWanted(set, states, "restored").includes(STEPS));
});

/** Another generation of the rank, from the state in its slot. */
async function goOn(rank: Rank, set: string, step: number): Promise<void> {
  const file = readdirSync(set)
    .map((name) => path.join(set, name))
    .find((one) => readSnapshotHeader(one)?.meta.state.step === step)!;
  await restore(rank, set, "2", inMemory({ generation: "1", step }, file));
  await rank.ask({ kind: "run", generation: "2" }, "finished");
}

test("a bit that turns on the device once its state has left is found before the vote, and no step is lost", async () => {
  const states = await wanted;
  const damaged = 2;
  let copies = 0;
  let state: Float64Array = new Float64Array(0);
  const on: Native = {
    ...native,
    snapshotStart: (from, to) => {
      state = from;
      return native.snapshotStart(from, to);
    },
    snapshotWait: (ticket, checksums) => {
      native.snapshotWait(ticket, checksums);
      if (copies++ !== damaged) return; // the first is that of the initial state
      const byte = new Uint8Array(4);
      native.tensorRead(state[0]!, 0, byte);
      byte[2]! ^= 1;
      native.tensorWrite(state[0]!, 0, byte);
    },
  };
  const { rank, set } = await startOf({ job: jobOf(STEPS, 1), on });
  const failed = await rank.ask({ kind: "run", generation: "1" }, "failed");
  assert.equal("code" in failed ? failed.code : "", "RANK_CORRUPT");
  assert.ok(assertWanted(set, states, "damaged").includes(damaged), "its copy is sound");
  await goOn(rank, set, damaged);
  assert.ok(assertWanted(set, states, "restored").includes(STEPS));
});

test("a step's high-water mark on the device is what gokuctl plan says of a GPU, the state with it, to the byte", async () => {
  const job = jobOf(3, 1);
  const others = native.memoryStats().liveBytes; // ranks of the tests before
  const packs: PackBatch[] = [];
  const peaks: number[] = [];
  const change = (pack: PackBatch, step: number) => {
    packs[step] = pack;
    return pack;
  };
  const look = (answer: FromRank) => {
    if (answer.kind === "step") peaks[answer.metrics.step] = answer.metrics.memoryPeakBytes;
  };
  await train({ job, look, change });
  for (const step of [1, 2, 3]) {
    const { grids, textLengths } = packs[step]!;
    const pack = {
      tokens: grids.reduce((sum, [t, y, x]) => sum + t * y * x, 0),
      samples: grids.length,
      textTokens: textLengths.reduce((a, b) => a + b),
    };
    const planned = gpuMemory({
      model: modelConfig(job),
      layout: Layout.parse("1x1x1"),
      rank: 0,
      precision: "bf16",
      recompute: "none",
      packsPerStep: 1,
      pack,
    });
    assert.equal(peaks[step]! - others, planned.total, `step ${step}`);
  }
});
