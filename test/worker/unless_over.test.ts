import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { unlessOver } from "../../worker/unless_over.js";

test("unlessOver() leaves storage that never answers with the generation's end, and keeps no listener", async () => {
  const over = new AbortController();
  const asked = unlessOver(over.signal, new Promise<never>(() => {}));
  over.abort();
  await assert.rejects(asked, { code: "COMM_ABORTED" });
  await assert.rejects(unlessOver(over.signal, new Promise<never>(() => {})), { code: "COMM_ABORTED" });
  const going = new AbortController();
  assert.equal(await unlessOver(going.signal, Promise.resolve(7)), 7);
  assert.equal(getEventListeners(going.signal, "abort").length, 0);
});
