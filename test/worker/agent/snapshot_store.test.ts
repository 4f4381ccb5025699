import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Layout } from "../../../job/layout.js";
import { newestHeld } from "../../../worker/agent/snapshot_sets.js";
import { SnapshotStore } from "../../../worker/agent/snapshot_store.js";
import { AWKWARD, metaOf, scratchFolder, snapshotPage, state } from "../../checkpoint/fixtures.js";

const layout = Layout.parse("1x2x1");
const ranks = [0, 1];

/** A node whose two ranks both hold steps 6 and 7; the file of each. */
function node() {
  const root = scratchFolder();
  const store = new SnapshotStore(root);
  const files = new Map<string, string>();
  for (const rank of ranks) {
    const set = store.create("job", rank, `${layout}`);
    for (const step of [6, 7]) {
      const file = path.join(set, `slot-${step % 2}`);
      writeFileSync(file, snapshotPage(AWKWARD, layout, rank, metaOf(state(1, step), layout)));
      files.set(`${rank}-${step}`, file);
    }
  }
  return { root, files };
}

test("a successor of an agent drops a snapshot with a flipped bit, and offers the newest that all its ranks hold", async () => {
  for (const [rank, step] of [
    [0, 7],
    [1, 7],
    [1, 6],
  ] as const) {
    const { root, files } = node();
    const damaged = files.get(`${rank}-${step}`)!;
    const page = readFileSync(damaged);
    page[page.byteLength - 70]! ^= 1;
    writeFileSync(damaged, page);
    const successor = new SnapshotStore(root);
    const [damage, ...others] = await successor.verify("job");
    assert.match(damage!, new RegExp(`${damaged}: .* differ from their checksum`));
    assert.deepEqual(others, []);
    for (const file of files.values()) assert.equal(existsSync(file), file !== damaged);
    const wanted = { ranks, layout: `${layout}` };
    assert.deepEqual(newestHeld(successor.sets("job"), wanted), state(1, step === 7 ? 6 : 7));
    assert.deepEqual(await successor.verify("job"), [], "what is left is whole");
  }
});

test("a successor of an agent does not offer what is cut short or empty, and its memory is used again", async () => {
  for (const bytes of [0, 4096, 1_048_576, 1_050_000]) {
    const { root, files } = node();
    const file = files.get("0-7")!;
    writeFileSync(file, readFileSync(file).subarray(0, bytes));
    const successor = new SnapshotStore(root);
    assert.deepEqual(await successor.verify("job"), []);
    assert.deepEqual(newestHeld(successor.sets("job"), { ranks, layout: `${layout}` }), state(1, 6));
    assert.ok(existsSync(file), "its rank makes it anew when it opens the set");
  }
});
