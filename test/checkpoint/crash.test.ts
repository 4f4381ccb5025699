import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { prune } from "../../checkpoint/retention.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import { Layout } from "../../job/layout.js";
import {
  AWKWARD,
  commitOf,
  memoryStorage,
  metaOf,
  Random,
  requireState,
  type SaveSetup,
  SMALL,
  saveAll,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";
import { type CrashMode, LoggedDisk } from "./logged_disk.js";

const scratch = scratchFolder();
const layout = Layout.parse("1x2x1");
const MODES: CrashMode[] = ["keepAll", "loseUnsynced", "keepSome", "keepSome", "keepSome"];

function setup(disk: LoggedDisk, name: StateName, more: Partial<SaveSetup> = {}): SaveSetup {
  const { storage } = memoryStorage(disk);
  const slots = path.join(scratch, stateKey(name));
  return { storage, model: SMALL, layout, meta: metaOf(name, layout), slots, ...more };
}

/** Everything listed must be whole, bit for bit; returns what was listed. */
async function requireWhole(disk: LoggedDisk, where: string): Promise<string[]> {
  const { storage } = memoryStorage(disk);
  const entries = await listCheckpoints(storage, ({ error }) => assert.fail(`${where}: ${error.message}`));
  for (const entry of entries)
    await requireState(await openCheckpoint(storage, entry.state), SMALL, entry.state);
  return entries.map((entry) => stateKey(entry.state));
}

/** Crashes after every operation that `work` logs, in every mode, and hands each crashed disk to `check`. */
async function everyCrash(
  disk: LoggedDisk,
  work: () => Promise<void>,
  check: (crashed: LoggedDisk, operations: number, where: string, mode: CrashMode) => Promise<void>,
): Promise<{ operations: number }> {
  const random = new Random(3);
  const replay = disk.crash("keepAll", random);
  const first = disk.log.length;
  await work();
  const operations = disk.log.slice(first);
  for (let count = 0; count <= operations.length; count++) {
    if (count > 0) replay.apply(operations[count - 1]!);
    for (const mode of MODES) {
      const where = `after ${count} of ${operations.length} operations (${operations[count - 1]?.op ?? "none"}), ${mode}`;
      await check(replay.crash(mode, random), count, where, mode);
    }
  }
  return { operations: operations.length };
}

test("a save cut short anywhere leaves the older checkpoint, and a new one only when whole", async () => {
  const disk = new LoggedDisk();
  await saveAndCommit(setup(disk, state(1, 10)));
  const seen = { before: 0, after: 0 };
  const { operations } = await everyCrash(
    disk,
    async () => void (await saveAndCommit(setup(disk, state(1, 20)))),
    async (crashed, _count, where) => {
      const listed = await requireWhole(crashed, where);
      assert.ok(listed.includes("1-10"), where);
      if (listed.includes("1-20")) seen.after++;
      else seen.before++;
    },
  );
  assert.ok(operations > 30, `${operations} operations`);
  assert.ok(seen.before > 100 && seen.after > 5, JSON.stringify(seen));
});

test("the first save of a run cut short anywhere leaves nothing or all of it", async () => {
  const disk = new LoggedDisk();
  await everyCrash(
    disk,
    async () => void (await saveAndCommit(setup(disk, state(1, 10)))),
    async (crashed, _count, where) => void (await requireWhole(crashed, where)),
  );
});

test("what was committed outlives any crash after commitCheckpoint resolved", async () => {
  const disk = new LoggedDisk();
  await saveAndCommit(setup(disk, state(1, 10)));
  const random = new Random(9);
  for (let i = 0; i < 50; i++) {
    assert.deepEqual(await requireWhole(disk.crash("keepSome", random), "at rest"), ["1-10"]);
  }
  assert.deepEqual(await requireWhole(disk.crash("loseUnsynced", random), "at rest"), ["1-10"]);
});

for (const generation of ["1", "2"]) {
  test(`a save over one that crashed anywhere succeeds, in ${generation === "1" ? "the same" : "a later"} generation`, async () => {
    const disk = new LoggedDisk();
    await saveAndCommit(setup(disk, state(1, 10)));
    await everyCrash(
      disk,
      async () => void (await saveAndCommit(setup(disk, state(1, 20)))),
      async (crashed, _count, where, mode) => {
        if (mode === "keepAll") await requireWhole(crashed, where);
        await saveAndCommit(setup(crashed, state(1, 20), { generation }));
        assert.deepEqual(await requireWhole(crashed, where), ["1-20", "1-10"], where);
      },
    );
  });
}

test("a save over a crashed one, itself cut short anywhere, leaves the older checkpoint", async () => {
  const disk = new LoggedDisk();
  await saveAndCommit(setup(disk, state(1, 10)));
  await saveAll(setup(disk, state(1, 20)), [0]);
  const again = setup(disk, state(2, 20));
  await everyCrash(
    disk,
    async () => void (await saveAndCommit(again)),
    async (crashed, _count, where) => assert.ok((await requireWhole(crashed, where)).includes("1-10"), where),
  );
});

test("a step committed anew by a later generation, cut short anywhere, is of one generation or the other", async () => {
  const disk = new LoggedDisk();
  await saveAndCommit(setup(disk, state(1, 10)));
  await saveAndCommit(setup(disk, state(1, 20)));
  const later = setup(disk, state(3, 20), { meta: metaOf(state(3, 20), layout, { parent: state(1, 10) }) });
  let both = 0;
  await everyCrash(
    disk,
    async () => void (await saveAndCommit(later)),
    async (crashed, _count, where) => {
      const listed = await requireWhole(crashed, where);
      assert.ok(listed.includes("1-10") && listed.includes("1-20"), where);
      if (listed.includes("3-20")) both++;
    },
  );
  assert.ok(both > 0);
});

test("pruning cut short anywhere leaves each checkpoint whole or gone, and the newest whole", async () => {
  const disk = new LoggedDisk();
  for (const step of [10, 20, 30]) await saveAndCommit(setup(disk, state(1, step)));
  await saveAll(setup(disk, state(1, 25)), [1]);
  await saveAndCommit(
    setup(disk, state(2, 40), { meta: metaOf(state(2, 40), layout, { parent: state(1, 30) }) }),
  );
  let halfway = 0;
  await everyCrash(
    disk,
    async () => void (await prune({ uri: memoryStorage(disk).storage, keepLast: 1, generation: "2" })),
    async (crashed, _count, where) => {
      const listed = await requireWhole(crashed, where);
      assert.ok(listed.includes("2-40"), where);
      if (listed.length === 2 || listed.length === 3) halfway++;
      await prune({ uri: memoryStorage(crashed).storage, keepLast: 1, generation: "2" });
      assert.deepEqual(await requireWhole(crashed, `${where}, pruned again`), ["2-40"]);
      const left = [...crashed.files().keys()].filter((file) => !file.includes("/checkpoint-40/"));
      assert.deepEqual(left, [], where);
    },
  );
  assert.ok(halfway > 10);
});

test("the disk double loses a save whose folders were never synced", async () => {
  // Else the tests above would prove nothing.
  const disk = new LoggedDisk();
  disk.apply({ op: "makeFolder", path: "/run" });
  disk.apply({ op: "syncFolder", path: "/" });
  const careless = new Proxy(disk, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      if (key === "syncFolder") return async () => {};
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const { storage } = memoryStorage(careless);
  await saveAll({ ...setup(disk, state(1, 10)), storage, model: AWKWARD });
  await commitOf({ ...setup(disk, state(1, 10)), storage, model: AWKWARD });
  const lost = disk.crash("loseUnsynced", new Random(1));
  assert.deepEqual(await listCheckpoints(memoryStorage(lost).storage), []);
  assert.equal((await listCheckpoints(memoryStorage(disk).storage)).length, 1);
});
