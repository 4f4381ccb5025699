import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { LruCache } from "../../../worker/data/lru_cache.js";

describe("LruCache", () => {
  it("drops the least recently used when its bytes pass the limit", () => {
    const cache = new LruCache(100);
    for (const name of ["a", "b"]) cache.set(name, new Float32Array(10));
    assert.ok(cache.get("a"));
    cache.set("c", new Float32Array(10));
    assert.deepEqual(
      ["a", "b", "c"].map((name) => cache.get(name) !== null),
      [true, false, true],
    );
    cache.set("a", new Float32Array(20)); // replaced by a larger one: the other must go
    assert.deepEqual(
      ["a", "c"].map((name) => cache.get(name) !== null),
      [true, false],
    );
    cache.set("huge", new Float32Array(26));
    assert.equal(cache.get("huge"), null);
  });
});
