import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeEntry, KEY_PREFIX } from "../../../controller/shell/records.js";

test("decodeEntry() completes records that earlier versions wrote", () => {
  const read = (record: object) =>
    decodeEntry({
      key: `${KEY_PREFIX}any`,
      modRevision: 1n,
      createRevision: 1n,
      lease: null,
      value: new TextEncoder().encode(JSON.stringify(record)),
    }).record;
  const open = { kind: "job", jobId: "j", stop: null, outcome: null };
  assert.deepEqual(read(open), { ...open, rollBacks: [] });
  const rollBacks = [{ generation: 3, first: 18, last: 25 }];
  assert.deepEqual(read({ ...open, rollBacks }), { ...open, rollBacks });
  const stopped = { ...open, rollBacks, stop: { atMs: 5 }, outcome: { phase: "STOPPED", step: 7 } };
  const { stop, outcome } = stopped;
  const completed = { stop: { ...stop, endMs: null }, outcome: { ...outcome, stepsGivenUp: 0 } };
  assert.deepEqual(read(stopped), { ...stopped, ...completed });
  assert.deepEqual(read({ kind: "incident" }), { kind: "incident", stacks: [] });
});
