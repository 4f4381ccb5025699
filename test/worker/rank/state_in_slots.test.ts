import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { readSnapshotHeader, verifySnapshot } from "../../../checkpoint/snapshot.js";
import { type StateName, stateKey } from "../../../checkpoint/state.js";
import type { PackBatch } from "../../../worker/data/pack_batch.js";
import type { FromRank } from "../../../worker/rank_messages.js";
import { inMemory, Rank, smallJob, sourceOf } from "./rank_harness.js";
import { wholeSlots } from "./whole_slots.js";

/**
 * A rank on its own with real slots: whatever is saved, skipped, voted down or restored, a slot that is whole holds the very
 * bytes of the state whose name it bears.
 */
const STEPS = 9;
const VOTED_DOWN = 4;

const base = mkdtempSync("/dev/shm/goku-test-slots-");
after(() => rmSync(base, { recursive: true }));
let folders = 0;
function newFolder(): string {
  const folder = path.join(base, String(folders++));
  mkdirSync(folder);
  return folder;
}

const broken = (pack: PackBatch, step: number): PackBatch =>
  step === VOTED_DOWN ? { ...pack, data: pack.data.map(() => Number.NaN) } : pack;

interface Run {
  precision: "fp32" | "bf16";
  every: number;
  /** Steps whose saves stay under way until the end. */
  held: readonly number[];
  /** Steps that a copy to another node takes; 0: states are not copied. */
  copyTakes?: number;
}

/** What is being copied to another node, and what is there, by the step; null: nothing. */
interface Copied {
  going: number | null;
  there: number | null;
}

/** Trains to the end, in a new set; `look` sees the set after every step. */
async function train(
  run: Run,
  look: (set: string, step: number, copied: Copied) => void,
): Promise<{ set: string; sealed: number[] }> {
  const folder = newFolder();
  const { copyTakes = 0 } = run;
  const set = path.join(folder, "set");
  const checkpoint = { every_steps: 2, snapshot_every_steps: run.every };
  const job = smallJob({ precision: run.precision, steps: STEPS, checkpoint });
  const sealed: number[] = [];
  const heldBack: StateName[] = [];
  const copied: Copied = { going: null, there: null };
  let sending: { state: StateName; ready: number } | null = null;
  const onAnswer = (answer: FromRank) => {
    if (answer.kind === "replicate") {
      copied.going = answer.state.step;
      sending = { state: answer.state, ready: answer.state.step + copyTakes };
    }
    if (answer.kind === "confirmed") copied.there = answer.state.step;
    if (answer.kind === "step") {
      const { step, replicatedStep } = answer.metrics;
      assert.equal(copied.there ?? 0, replicatedStep, "the agent knows what is in two places");
      look(set, step, copied);
      if (sending && step >= sending.ready)
        rank.tell({ kind: "replicated", state: sending.state, whole: true });
    }
    if (answer.kind !== "save") return;
    sealed.push(answer.state.step);
    if (run.held.includes(answer.state.step)) heldBack.push(answer.state);
    else rank.tell({ kind: "unpin", state: answer.state, error: null });
  };
  const rank: Rank = new Rank({
    job,
    folder,
    onAnswer,
    openSource: async () => sourceOf(job, "data", broken),
  });
  await start(rank, "1", set, { replicate: copyTakes > 0 });
  const finished = await rank.ask({ kind: "run", generation: "1" }, "finished");
  assert.equal(finished.kind, "finished");
  for (const state of heldBack) rank.tell({ kind: "unpin", state, error: null });
  return { set, sealed };
}

async function start(
  rank: Rank,
  generation: string,
  set: string,
  how: { from?: { slot: string; state: StateName }; replicate?: boolean } = {},
) {
  assert.equal((await rank.prepare(generation, set, how.replicate)).kind, "ready");
  assert.equal((await rank.connect(generation)).kind, "connected");
  const { from } = how;
  const source = from === undefined ? { kind: "initial" as const } : inMemory(from.state, from.slot);
  return rank.ask({ kind: "restore", generation, source, rollBacks: [] }, "restored");
}

for (const precision of ["fp32", "bf16"] as const) {
  test(`a whole slot holds the bytes of the state it names, whatever is skipped, saved or voted down: ${precision}`, async () => {
    const states = new Map<number, string>();
    await train({ precision, every: 1, held: [] }, (set) => {
      for (const [step, digest] of wholeSlots(set)) {
        assert.equal(states.get(step) ?? digest, digest, `step ${step} changed its bytes`);
        states.set(step, digest);
      }
    });
    assert.deepEqual(
      [...states.keys()].sort(),
      Array.from({ length: STEPS + 1 }, (_, i) => i),
    );
    assert.equal(states.get(VOTED_DOWN), states.get(VOTED_DOWN - 1), "a step voted down changes nothing");
    assert.equal(new Set(states.values()).size, STEPS, "every other step does");

    for (const copyTakes of [1, 2, 3, 5]) {
      for (const held of [[], [2], [2, 6]]) {
        let copies = 0;
        await train({ precision, every: 1, held, copyTakes }, (set, _, { going, there }) => {
          const whole = wholeSlots(set);
          for (const [one, digest] of whole) assert.equal(digest, states.get(one), `step ${one}`);
          if (there !== null) assert.ok(whole.has(there), `step ${there}, which is in two places, is kept`);
          if (going !== null) assert.ok(whole.has(going), `step ${going}, which is being copied, is kept`);
          copies = Math.max(copies, going ?? 0);
        });
        assert.ok(copies > 0, "a second copy followed the first");
      }
    }

    let confirmed = 0;
    await train({ precision, every: 3, held: [], copyTakes: 1 }, (_, __, { going, there }) => {
      if (there !== null && there === going) confirmed += 1;
    });
    assert.ok(confirmed > 0, "also where no other copy begins with the vote that found it there");

    for (const every of [1, 2, 3, 5]) {
      for (const held of [[], [2], [2, 4], [2, 4, 6]]) {
        const what = `snapshots every ${every} steps, saves of ${held.join(", ") || "none"} held`;
        const check = (set: string) => {
          for (const [step, digest] of wholeSlots(set))
            assert.equal(digest, states.get(step), `${what}: the slot that names step ${step}`);
        };
        const { set, sealed } = await train({ precision, every, held }, check);
        check(set);
        assert.ok(wholeSlots(set).has(STEPS), `${what}: the last state is whole`);
        for (const step of held)
          if (sealed.includes(step))
            assert.ok(wholeSlots(set).has(step), `${what}: step ${step} is kept for its save`);
        for (const name of readdirSync(set)) {
          const file = path.join(set, name);
          if (readSnapshotHeader(file) !== null)
            assert.equal(await verifySnapshot(file), null, `${what}: ${name}`);
        }
      }
    }
  });
}

test("a restore from a slot goes on in it to the same states; one with a flipped bit is refused and given up", async () => {
  const states = new Map<number, string>();
  const { set } = await train({ precision: "fp32", every: 1, held: [] }, (where) => {
    for (const [step, digest] of wholeSlots(where)) states.set(step, digest);
  });
  const slotOf = (step: number) => {
    const name = readdirSync(set).find(
      (one) => readSnapshotHeader(path.join(set, one))?.meta.state.step === step,
    );
    assert.ok(name, `step ${step} is in a slot`);
    return path.join(set, name);
  };
  const job = smallJob({ steps: STEPS, checkpoint: { every_steps: 100 } });
  const folder = newFolder();
  const onAnswer = (answer: FromRank) => {
    if (answer.kind === "save") rank.tell({ kind: "unpin", state: answer.state, error: null });
  };
  const rank: Rank = new Rank({
    job,
    folder,
    onAnswer,
    openSource: async () => sourceOf(job, "data", broken),
  });
  const state = { generation: "1", step: STEPS - 1 };

  const damaged = slotOf(STEPS);
  const bytes = readFileSync(damaged);
  bytes[readSnapshotHeader(damaged)!.entries[0]!.byteOffset + 5]! ^= 1;
  writeFileSync(damaged, bytes);
  const refused = await start(rank, "2", set, {
    from: { slot: damaged, state: { generation: "1", step: STEPS } },
  });
  assert.equal(refused.kind === "failed" && refused.code, "SNAPSHOT_MISSING");
  assert.equal(readSnapshotHeader(damaged), null, "nobody takes it for whole any more");

  const restored = await start(rank, "3", set, { from: { slot: slotOf(STEPS - 1), state } });
  assert.equal(restored.kind === "restored" && stateKey(restored.state), stateKey(state));
  await rank.ask({ kind: "run", generation: "3" }, "finished");
  const last = wholeSlots(set);
  assert.equal(last.get(STEPS), states.get(STEPS));
  assert.equal(last.get(STEPS - 1), states.get(STEPS - 1), "the state restored from is untouched");
});
