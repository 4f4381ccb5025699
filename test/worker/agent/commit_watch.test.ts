import assert from "node:assert/strict";
import { test } from "node:test";
import { GokuError } from "../../../job/errors.js";
import { CommitWatch } from "../../../worker/agent/commit_watch.js";
import {
  layoutOf,
  memoryStorage,
  metaOf,
  SMALL,
  saveAndCommit,
  scratchFolder,
  state,
} from "../../checkpoint/fixtures.js";

const layout = layoutOf("1x2x1");

function counted() {
  const { storage } = memoryStorage();
  const seen = { looks: 0, error: null as GokuError | null };
  const watched = new Proxy(storage, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      if (key !== "stat") return typeof value === "function" ? value.bind(target) : value;
      return async (name: string) => {
        seen.looks++;
        if (seen.error !== null) throw seen.error;
        return target.stat(name);
      };
    },
  });
  return { storage, watched, seen };
}

test("CommitWatch looks once for all ranks of a node that wait for one commit, and each is told", async () => {
  const { storage, watched, seen } = counted();
  const watch = new CommitWatch();
  const never = new AbortController().signal;
  const waits = Array.from({ length: 8 }, () => watch.until(watched, state(1, 40), never));
  assert.equal(seen.looks, 1);
  const meta = metaOf(state(1, 40), layout);
  await saveAndCommit({ storage, model: SMALL, layout, meta, slots: scratchFolder() });
  for (const found of await Promise.all(waits)) assert.equal(found?.meta.state.step, 40);
});

test("CommitWatch lets one give up while others wait, stops with the last, and tells an error to all", async () => {
  const { watched, seen } = counted();
  const watch = new CommitWatch();
  const [first, second] = [new AbortController(), new AbortController()];
  const waits = [first, second].map(({ signal }) => watch.until(watched, state(1, 40), signal));
  first.abort();
  assert.equal(await waits[0], null);
  seen.error = new GokuError("STORAGE_FAILED", "Cannot look up it: a test");
  await assert.rejects(waits[1]!, /a test/);
  seen.error = null;
  const again = watch.until(watched, state(1, 40), second.signal);
  second.abort();
  assert.equal(await again, null, "an error ends only the waits that saw it");
});
