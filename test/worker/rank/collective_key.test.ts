import assert from "node:assert/strict";
import { test } from "node:test";
import { collectiveKey } from "../../../worker/rank/collective_key.js";

test("collectiveKey(): one for a job and its secret, short enough for a Hello, and neither is in it", () => {
  const key = collectiveKey("job-1", "hush");
  assert.match(key, /^[0-9a-f]{64}$/);
  assert.equal(collectiveKey("job-1", "hush"), key);
  assert.notEqual(collectiveKey("job-1", "hushed"), key);
  assert.notEqual(collectiveKey("job-2", "hush"), key);
});
