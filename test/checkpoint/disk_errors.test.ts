import assert from "node:assert/strict";
import path from "node:path";
import { before, test } from "node:test";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { prune } from "../../checkpoint/retention.js";
import { stateKey } from "../../checkpoint/state.js";
import { FileStorage } from "../../checkpoint/storage/file.js";
import { GokuError } from "../../job/errors.js";
import {
  layoutOf,
  memoryStorage,
  metaOf,
  Random,
  requireState,
  type SaveSetup,
  SMALL,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";
import { LoggedDisk } from "./logged_disk.js";
import { watched } from "./watched_disk.js";

const scratch = scratchFolder();
const layout = layoutOf("1x2x1");

function setup(disk: LoggedDisk, step: number): SaveSetup {
  const meta = metaOf(state(1, step), layout);
  return {
    storage: memoryStorage(disk).storage,
    model: SMALL,
    layout,
    meta,
    slots: path.join(scratch, `${step}`),
  };
}

const base = new LoggedDisk();
before(() => saveAndCommit(setup(base, 10)));

/** A disk with one checkpoint, and the second save, which meets `code` at operation `at`, or from there on. */
async function faultySave(code: string, at: number, lasting: boolean) {
  const disk = base.crash("keepAll", new Random(0));
  let count = 0;
  const faulty = watched(disk, () => {
    const index = count++;
    if (lasting ? index >= at : index === at) throw Object.assign(new Error(`injected ${code}`), { code });
  });
  const storage = new FileStorage("/run", "file:///run", faulty);
  const error = await saveAndCommit({ ...setup(disk, 20), storage }).then(
    () => null,
    (thrown: unknown) => thrown,
  );
  return { disk, count, error };
}

async function requireWhole(disk: LoggedDisk, where: string): Promise<string[]> {
  const { storage } = memoryStorage(disk);
  const entries = await listCheckpoints(storage, ({ error }) => assert.fail(`${where}: ${error.message}`));
  for (const entry of entries)
    await requireState(await openCheckpoint(storage, entry.state), SMALL, entry.state);
  return entries.map((entry) => stateKey(entry.state));
}

for (const [code, wanted] of [
  ["ENOSPC", "STORAGE_FULL"],
  ["EIO", "STORAGE_FAILED"],
  ["EROFS", "STORAGE_FAILED"],
] as const) {
  for (const lasting of [false, true]) {
    const when = lasting ? "from any operation on" : "at any one operation";
    test(`a save whose disk answers ${code} ${when}: ${wanted}, the older checkpoint stays, nothing is torn, and the repeated save succeeds`, async () => {
      const { count: operations } = await faultySave(code, Number.POSITIVE_INFINITY, false);
      let failed = 0;
      let visible = 0;
      for (let at = 0; at < operations; at++) {
        const where = `${code} at operation ${at} of ${operations}`;
        const { disk, error } = await faultySave(code, at, lasting);
        const listed = await requireWhole(disk, where);
        assert.ok(listed.includes("1-10"), where);
        if (error === null) assert.deepEqual(listed, ["1-20", "1-10"], where);
        else {
          assert.ok(error instanceof GokuError && error.code === wanted, `${where}: ${error}`);
          assert.match(error.message, new RegExp(code), where);
          failed++;
          if (listed.includes("1-20")) visible++;
        }
        await saveAndCommit(setup(disk, 20));
        assert.deepEqual(await requireWhole(disk, where), ["1-20", "1-10"], where);
        const { storage } = memoryStorage(disk);
        await prune({ uri: storage, keepLast: 2, generation: "2" });
        const unfinished = [...disk.files().keys()].filter((file) => /\.g.*\.tmp$/.test(file));
        assert.deepEqual(unfinished, [], `${where}: what could not be removed then is swept`);
      }
      // Only the last look at the files comes after the record, and a dead disk cannot take one back: it is there, whole.
      assert.ok(visible < operations / 6, `${visible} of ${operations} are visible`);
      assert.ok(operations > 50 && failed > (operations * 3) / 4, `${failed} of ${operations} failed`);
    });
  }
}

test("what a dead disk kept of a save goes with its checkpoint, to the last file", async () => {
  const { count: operations } = await faultySave("EIO", Number.POSITIVE_INFINITY, false);
  let unfinished = 0;
  for (let at = 0; at < operations; at++) {
    const { disk } = await faultySave("EIO", at, true);
    unfinished += [...disk.files().keys()].filter((file) => file.endsWith(".tmp")).length;
    for (const step of [20, 30]) await saveAndCommit(setup(disk, step));
    const { storage } = memoryStorage(disk);
    await prune({ uri: storage, keepLast: 1, generation: "2" });
    assert.deepEqual(await storage.folders(""), ["checkpoint-30"], `EIO from operation ${at} on`);
  }
  assert.ok(unfinished > 10, `${unfinished} unfinished files were left`);
});
