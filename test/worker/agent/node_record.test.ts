import assert from "node:assert/strict";
import { statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { EMPTY_RECORD, readNodeRecord, writeNodeRecord } from "../../../worker/agent/node_record.js";
import { scratchFolder, state } from "../../checkpoint/fixtures.js";

const scratch = scratchFolder();

test("a node's record tells the next agent process what it holds, and what lets others of the job read it", () => {
  const file = path.join(scratch, "node.json");
  const record = {
    jobId: "job-1",
    generation: 7n,
    peerSecret: "shown among nodes",
    replicated: state(6, 40),
  };
  writeNodeRecord(file, record);
  assert.deepEqual(readNodeRecord(file), record);
  assert.equal(statSync(file).mode & 0o077, 0, "for nobody else");
});

test("a record without a secret or a replicated state, of an older version, still tells what the node holds", () => {
  const file = path.join(scratch, "older.json");
  writeFileSync(file, JSON.stringify({ jobId: "job-1", generation: "7" }));
  assert.deepEqual(readNodeRecord(file), {
    jobId: "job-1",
    generation: 7n,
    peerSecret: null,
    replicated: null,
  });
});

test("a record that is missing, or no record at all, counts as empty", () => {
  const file = path.join(scratch, "broken.json");
  writeFileSync(file, "{");
  for (const one of [file, path.join(scratch, "none.json")])
    assert.deepEqual(readNodeRecord(one), EMPTY_RECORD);
});
