import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { type CheckpointEntry, listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { planRetention, prune } from "../../checkpoint/retention.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import {
  AWKWARD,
  layoutOf,
  memoryStorage,
  metaOf,
  requireState,
  type SaveSetup,
  saveAll,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";

const scratch = scratchFolder();
const layout = layoutOf("1x2x1");

function entry(generation: number, step: number, current = true): CheckpointEntry {
  const uri = `file:///run/checkpoint-${step}`;
  return {
    step,
    state: state(generation, step),
    parent: null,
    uri,
    bytes: 1,
    layout: layout.size,
    committedAt: "",
    current,
  };
}

function removed(entries: CheckpointEntry[], keepLast: number): number[] {
  const { keep, remove } = planRetention({ entries, keepLast });
  const steps = [...keep, ...remove].map((choice) => choice.step).sort((a, b) => a - b);
  assert.deepEqual(
    steps,
    [...new Set(entries.map((each) => each.step))].sort((a, b) => a - b),
    "each step is decided once",
  );
  for (const { reason } of [...keep, ...remove]) assert.ok(reason.length > 0);
  return remove.map((choice) => choice.step);
}

test("planRetention() keeps the newest of the current line", () => {
  const line = [entry(2, 40), entry(2, 30), entry(1, 20), entry(1, 10)];
  assert.deepEqual(removed(line, 5), []);
  assert.deepEqual(removed(line, 3), [10]);
  assert.deepEqual(removed(line, 1), [10, 20, 30]);
  assert.deepEqual(removed([], 1), []);
  assert.throws(() => planRetention({ entries: line, keepLast: 0 }), RangeError);
});

test("planRetention() keeps the steps of the current line that are a multiple of keepEvery, besides the newest", () => {
  const line = [entry(2, 50), entry(2, 45), entry(2, 40), entry(1, 30), entry(1, 20), entry(1, 0)];
  const { keep, remove } = planRetention({ entries: line, keepLast: 1, keepEvery: 20 });
  assert.deepEqual(
    keep.map(({ step }) => step),
    [0, 20, 40, 50],
  );
  assert.deepEqual(
    remove.map(({ step }) => step),
    [30, 45],
  );
  assert.match(keep[1]!.reason, /multiple of 20/);
  const given = planRetention({
    entries: [entry(2, 25), entry(1, 40, false)],
    keepLast: 1,
    keepEvery: 20,
  });
  assert.deepEqual(
    given.remove.map(({ step }) => step),
    [40],
    "a line that was given up is not kept for ever",
  );
  assert.throws(() => planRetention({ entries: line, keepLast: 1, keepEvery: 0 }), RangeError);
});

test("prune() deletes nothing that keepEvery keeps", async () => {
  const { storage } = memoryStorage();
  for (const step of [5, 10, 15, 20, 25]) await saveAndCommit(setup(storage, state(1, step)));
  const result = await prune({ uri: storage, keepLast: 1, keepEvery: 10, generation: "1" });
  assert.deepEqual(result.removed.map(({ step }) => step).sort(), [15, 5]);
  for (const step of [10, 20, 25])
    await requireState(await openCheckpoint(storage, step), AWKWARD, state(1, step));
});

test("planRetention() gives up what an abandoned line left only when enough newer ones stand", () => {
  const abandoned = [entry(1, 30, false), entry(1, 40, false)];
  assert.deepEqual(removed([entry(2, 25), entry(1, 20), entry(1, 10), ...abandoned], 2), [10]);
  assert.deepEqual(
    removed([entry(2, 28), entry(2, 25), entry(1, 20), entry(1, 10), ...abandoned], 2),
    [10, 20, 30, 40],
  );
});

test("planRetention() never removes a step that a kept state shares with another", () => {
  assert.deepEqual(removed([entry(3, 40), entry(3, 30), entry(1, 30, false), entry(1, 20)], 2), [20]);
});

function setup(storage: SaveSetup["storage"], name: StateName, parent: StateName | null = null): SaveSetup {
  return {
    storage,
    model: AWKWARD,
    layout,
    meta: metaOf(name, layout, { parent }),
    slots: path.join(scratch, stateKey(name)),
  };
}

test("prune() deletes old checkpoints and the remains of crashed saves, and nothing else", async () => {
  const { storage, disk } = memoryStorage();
  for (const step of [10, 20]) await saveAndCommit(setup(storage, state(1, step)));
  await saveAll(setup(storage, state(1, 30)), [0]); // crashed
  await saveAll({ ...setup(storage, state(1, 20)), generation: "0" }, []);
  await saveAll(setup(storage, state(1, 50)), [1]); // crashed, above the newest
  await saveAndCommit(setup(storage, state(2, 40), state(1, 20)));
  await saveAll(setup(storage, state(2, 60)), [0]); // being written
  disk.apply({ op: "create", path: "/run/checkpoint-60/.g2-w1.safetensors.0123456789abcdef.tmp" });
  disk.apply({ op: "create", path: "/run/checkpoint-40/.g1-w1.safetensors.0123456789abcdef.tmp" });
  disk.apply({ op: "create", path: "/run/checkpoint-40/.g2-w1.safetensors.0123456789abcdef.tmp" });
  disk.apply({ op: "create", path: "/run/checkpoint-10/notes.txt" });
  disk.apply({ op: "create", path: "/run/readme.txt" });
  await saveAll({ ...setup(storage, state(1, 40)) }, [0]); // a straggler of an older generation beside a committed state
  const result = await prune({ uri: storage, keepLast: 2, generation: "2" });
  assert.deepEqual(result.removed.map(({ step }) => step).sort(), [10, 30, 50]);
  assert.ok(result.removedBytes > 0);
  assert.deepEqual(
    (await listCheckpoints(storage)).map((each) => stateKey(each.state)),
    ["2-40", "1-20"],
  );
  await requireState(await openCheckpoint(storage), AWKWARD, state(2, 40));
  await requireState(await openCheckpoint(storage, 20), AWKWARD, state(1, 20));
  const left = [...disk.files().keys()].filter((file) => !/checkpoint-[24]0\/(g|manifest)/.test(file)).sort();
  assert.deepEqual(left, [
    "/run/checkpoint-10/notes.txt",
    "/run/checkpoint-40/.g2-w1.safetensors.0123456789abcdef.tmp",
    "/run/checkpoint-60/.g2-w1.safetensors.0123456789abcdef.tmp",
    "/run/checkpoint-60/g2-w0.json",
    "/run/checkpoint-60/g2-w0.safetensors",
    "/run/readme.txt",
  ]);
  assert.ok(![...disk.files().keys()].some((file) => file.includes("checkpoint-40/g1")));
  assert.deepEqual(await storage.folders(""), [
    "checkpoint-10",
    "checkpoint-20",
    "checkpoint-40",
    "checkpoint-60",
  ]);
});

test("prune() leaves a checkpoint whose commit record is damaged", async () => {
  const { storage, disk } = memoryStorage();
  for (const step of [10, 20, 30]) await saveAndCommit(setup(storage, state(1, step)));
  disk.damage("/run/checkpoint-10/manifest.json", (bytes) => bytes.slice(1));
  const before = [...disk.files().keys()].filter((file) => file.includes("checkpoint-10"));
  assert.deepEqual(
    (await prune({ uri: storage, keepLast: 1, generation: "1" })).removed.map(({ step }) => step),
    [20],
  );
  assert.deepEqual(
    [...disk.files().keys()].filter((file) => file.includes("checkpoint-10")),
    before,
  );
});

test("prune() spares a step that a newer generation commits anew after the plan was made", async () => {
  const { storage } = memoryStorage();
  for (const step of [10, 20, 30]) await saveAndCommit(setup(storage, state(1, step)));
  let listings = 0;
  // The plan lists the folders first; a pruner that stood still goes on with the second listing.
  const slow = new Proxy(storage, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      if (key !== "folders") return typeof value === "function" ? value.bind(target) : value;
      return async (prefix: string) => {
        if (++listings === 2) await saveAndCommit(setup(storage, state(2, 20), state(1, 10)));
        return target.folders(prefix);
      };
    },
  });
  const { removed } = await prune({ uri: slow, keepLast: 1, generation: "1" });
  assert.deepEqual(
    removed.map(({ step }) => step),
    [10],
  );
  await requireState(await openCheckpoint(storage), AWKWARD, state(2, 20));
});
