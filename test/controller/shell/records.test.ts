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
  assert.deepEqual(read({ kind: "job", jobId: "j" }), { kind: "job", jobId: "j", rollBacks: [] });
  const rollBacks = [{ generation: 3, first: 18, last: 25 }];
  assert.deepEqual(read({ kind: "job", rollBacks }), { kind: "job", rollBacks });
  assert.deepEqual(read({ kind: "incident" }), { kind: "incident", stacks: [] });
});
