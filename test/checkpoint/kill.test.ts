import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { prune } from "../../checkpoint/retention.js";
import { AWKWARD, layoutOf, metaOf, requireState, scratchFolder, state, writeSlots } from "./fixtures.js";

const scratch = scratchFolder();
const program = fileURLToPath(new URL("./save_process.js", import.meta.url));

test("a saver killed at any named point, on a real disk, leaves the older checkpoint, and its successor completes the save", async () => {
  const uri = `file://${path.join(scratch, "run")}`;
  const layout = layoutOf("1x2x1");
  let step = 0;
  const save = (point: string, writer: number) => {
    const setup = {
      storage: uri,
      model: AWKWARD,
      layout,
      meta: metaOf(state(1, step), layout),
      slots: path.join(scratch, String(step)),
    };
    const slots = writeSlots(setup);
    return spawnSync(process.execPath, [program, uri, "1x2x1", point, String(writer), ...slots], {
      encoding: "utf8",
    });
  };
  step = 10;
  assert.equal(save("none", 0).status, 0);
  for (const [point, writer] of [
    ["save.write", 0],
    ["save.write", 1],
    ["save.commit", 0],
    ["save.committed", 0],
  ] as const) {
    const before = step;
    step += 10;
    assert.equal(save(point, writer).signal, "SIGKILL", point);
    const survivor = point === "save.committed" ? step : before;
    await requireState(await openCheckpoint(uri), AWKWARD, state(1, survivor));
    const again = save("none", 0);
    assert.equal(again.status, 0, again.stderr);
    await requireState(await openCheckpoint(uri), AWKWARD, state(1, step));
  }
  await prune({ uri, keepLast: 2, generation: "2" });
  assert.deepEqual(
    (await listCheckpoints(uri)).map((entry) => entry.step),
    [50, 40],
  );
});
