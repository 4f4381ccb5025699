import assert from "node:assert/strict";
import { test } from "node:test";
import { StreamLimits } from "../../../controller/api/stream_limits.js";

const TEXTS = { action: "follow events", advice: "end one first" };

test("StreamLimits: so many a caller and so many in all; an end makes room, once", () => {
  const limits = new StreamLimits({ perCaller: 2, total: 3 }, TEXTS);
  const first = limits.open("a");
  limits.open("a");
  assert.throws(() => limits.open("a"), {
    code: "RATE_LIMITED",
    message: /^Cannot follow events: a has 2 open, which is the most; end one first$/,
  });
  limits.open("b");
  assert.throws(() => limits.open("c"), /3 are open in all/);
  first();
  first();
  limits.open("a");
  assert.throws(() => limits.open("b"), /3 are open in all/);
});

test("StreamLimits: where callers cannot be told apart, only the sum counts", () => {
  const limits = new StreamLimits({ perCaller: 1, total: 2 }, TEXTS);
  limits.open(null);
  limits.open(null);
  assert.throws(() => limits.open(null), /2 are open in all/);
});
