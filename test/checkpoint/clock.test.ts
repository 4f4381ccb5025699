import assert from "node:assert/strict";
import path from "node:path";
import { mock, test } from "node:test";
import type { SaveHook } from "../../checkpoint/hooks.js";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { prune } from "../../checkpoint/retention.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import {
  AWKWARD,
  commitOf,
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
/** Years forwards and backwards. */
const JUMPS = ["2025-06-01", "2031-01-01", "1970-01-01", "1999-12-31", "2262-04-11", "2000-02-29"];

function setup(storage: SaveSetup["storage"], name: StateName, parent: StateName | null = null): SaveSetup {
  const slots = path.join(scratch, stateKey(name));
  return { storage, model: AWKWARD, layout, meta: metaOf(name, layout, { parent }), slots };
}

test("a clock that jumps by years between and during saves changes what is shown as their time, and nothing else", async () => {
  mock.timers.enable({ apis: ["Date"] });
  try {
    const jump = (to: number) => mock.timers.setTime(Date.parse(JUMPS[to % JUMPS.length]!));
    const { storage } = memoryStorage();
    for (const [i, step] of [10, 20, 30, 40, 50, 60].entries()) {
      const save = setup(storage, state(1, step));
      jump(i);
      await saveAll(save, [0]);
      jump(i + 1);
      const hook: SaveHook = () => jump(i);
      const committing = commitOf(save, { waitMs: 60_000, hook });
      jump(i + 3); // also while it waits
      await saveAll(save, [1]);
      assert.equal((await committing).created, true);
    }
    // A line that was given up, and a newer one: by their generations, whatever the times say.
    jump(2);
    await saveAndCommit(setup(storage, state(2, 45), state(1, 40)));
    const listed = await listCheckpoints(storage);
    assert.deepEqual(
      listed.map((entry) => `${stateKey(entry.state)} ${entry.current}`),
      ["2-45 true", "1-40 true", "1-30 true", "1-20 true", "1-10 true", "1-60 false", "1-50 false"],
    );
    const times = listed.map(({ committedAt }) => committedAt.slice(0, 4));
    assert.ok(new Set(times).size >= 4, `the clock did jump: ${times}`);
    await requireState(await openCheckpoint(storage), AWKWARD, state(2, 45));
    for (const [at, step] of [
      [4, 48],
      [2, 55],
    ] as const) {
      jump(at);
      await saveAndCommit(setup(storage, state(2, step), state(1, 40)));
      jump(at + 1);
      await prune({ uri: storage, keepLast: 2, generation: "2" });
    }
    assert.deepEqual(
      (await listCheckpoints(storage)).map((entry) => stateKey(entry.state)),
      ["2-55", "2-48"],
    );
    await requireState(await openCheckpoint(storage), AWKWARD, state(2, 55));
  } finally {
    mock.timers.reset();
  }
});
