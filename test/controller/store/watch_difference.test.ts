import assert from "node:assert/strict";
import { test } from "node:test";
import { watchDifference } from "../../../controller/store/watch_difference.js";

const entry = (key: string, modRevision: bigint) => ({
  key,
  value: new Uint8Array([Number(modRevision)]),
  createRevision: 1n,
  modRevision,
  lease: null,
});

test("watchDifference() tells puts in the order of their revisions, then deletes dated with the read", () => {
  const known = new Map([
    ["same", 3n],
    ["changed", 4n],
    ["gone", 5n],
  ]);
  const entries = [entry("born", 9n), entry("changed", 8n), entry("same", 3n)];
  assert.deepEqual(watchDifference(known, entries, 12n), [
    { kind: "put", key: "changed", value: new Uint8Array([8]), modRevision: 8n },
    { kind: "put", key: "born", value: new Uint8Array([9]), modRevision: 9n },
    { kind: "delete", key: "gone", value: null, modRevision: 12n },
  ]);
});

test("watchDifference() tells everything to who knows nothing, and nothing to who knows everything", () => {
  const entries = [entry("b", 2n), entry("a", 7n)];
  assert.deepEqual(
    watchDifference(new Map(), entries, 7n).map(({ key }) => key),
    ["b", "a"],
  );
  assert.deepEqual(watchDifference(new Map(entries.map((e) => [e.key, e.modRevision])), entries, 9n), []);
});

test("watchDifference() tells what a store that was set back to an older copy now holds", () => {
  assert.deepEqual(
    watchDifference(new Map([["k", 9n]]), [entry("k", 4n)], 6n).map(
      (e) => `${e.kind} ${e.key} ${e.modRevision}`,
    ),
    ["put k 4"],
  );
});
