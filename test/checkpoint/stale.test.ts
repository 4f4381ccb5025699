import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { prune } from "../../checkpoint/retention.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import { FileStorage } from "../../checkpoint/storage/file.js";
import { GokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import {
  memoryStorage,
  metaOf,
  requireState,
  type SaveSetup,
  SMALL,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";
import { LoggedDisk } from "./logged_disk.js";
import { SlowView } from "./watched_disk.js";

const scratch = scratchFolder();
const layout = Layout.parse("1x2x1");

function setup(name: StateName, more: Partial<SaveSetup> = {}): SaveSetup {
  const slots = path.join(scratch, stateKey(name));
  const meta = metaOf(name, layout, name.generation === "1" ? {} : { parent: state(1, 10) });
  return { storage: "", model: SMALL, layout, meta, slots, ...more };
}

/** What the stale generation saves, what the newer one does, and what must be the newest in the end. */
const CASES: { name: string; stale: SaveSetup; newer: SaveSetup; newest: StateName }[] = [
  {
    name: "the same step, computed again",
    stale: setup(state(1, 20)),
    newer: setup(state(2, 20)),
    newest: state(2, 20),
  },
  {
    name: "an earlier step, since it went back to the one before",
    stale: setup(state(1, 20)),
    newer: setup(state(2, 15)),
    newest: state(2, 15),
  },
  {
    name: "a later step",
    stale: setup(state(1, 20)),
    newer: setup(state(2, 30)),
    newest: state(2, 30),
  },
  {
    name: "the very state, which it restored",
    stale: setup(state(1, 20)),
    newer: setup(state(1, 20), { generation: "2" }),
    newest: state(1, 20),
  },
];

for (const { name, stale, newer, newest } of CASES) {
  for (const prunes of [false, true]) {
    const after = prunes ? "saves and prunes" : "saves";
    test(`a save that stands still at any operation while a newer generation ${after} ${name}: the newer wins, nothing mixes`, async () => {
      const counted = new SlowView(null);
      await race(counted, { stale, newer, prunes: false }, false);
      const ends = new Map<string, number>();
      for (let at = 0; at < counted.count; at++) {
        const { disk, end } = await race(new SlowView(at), { stale, newer, prunes }, true);
        ends.set(end, (ends.get(end) ?? 0) + 1);
        const where = `before operation ${at} of ${counted.count}, the stale save ended with ${end}`;
        const { storage } = memoryStorage(disk);
        assert.deepEqual((await openCheckpoint(storage)).meta.state, newest, where);
        const listed = await listCheckpoints(storage, ({ error }) =>
          assert.fail(`${where}: ${error.message}`),
        );
        for (const entry of listed)
          await requireState(await openCheckpoint(storage, entry.state), SMALL, entry.state);
        if (end === "success") assert.ok(prunes || listed.length >= 2, where);
      }
      assert.ok(counted.count > 50, `${counted.count} operations`);
      const failures = [...ends.keys()].filter((end) => end !== "success").sort();
      for (const code of failures)
        assert.ok(
          ["GENERATION_STALE", "STORAGE_FAILED", "CHECKPOINT_CORRUPT", "NOT_FOUND"].includes(code),
          code,
        );
    });
  }
}

/** The stale save begins, stands still, and goes on when the newer one is committed. Returns how it ended. */
async function race(
  view: SlowView,
  { stale, newer, prunes }: { stale: SaveSetup; newer: SaveSetup; prunes: boolean },
  wait: boolean,
): Promise<{ disk: LoggedDisk; end: string }> {
  const disk = new LoggedDisk();
  const { storage } = memoryStorage(disk);
  await saveAndCommit({ ...setup(state(1, 10)), storage });
  const slow = new FileStorage("/run", "file:///run", view.of(disk));
  const ended = saveAndCommit({ ...stale, storage: slow }).then(
    () => "success",
    (error: unknown) => (error instanceof GokuError ? error.code : String(error)),
  );
  if (wait) {
    await view.stands;
    await saveAndCommit({ ...newer, storage });
    if (prunes) await prune({ uri: storage, keepLast: 1, generation: "2" });
    view.open();
  }
  return { disk, end: await ended };
}
