import assert from "node:assert/strict";
import { test } from "node:test";
import { wrapped } from "../../cli/output.js";

test("wrapped() cuts at spaces, keeps every word, and leaves what fits", () => {
  const text =
    "two nodes of two ranks share what this machine has, and a_word_that_is_longer_than_any_line_may_be";
  const lines = wrapped(text, 24);
  assert.equal(lines.join(" "), text);
  assert.ok(lines.filter((line) => line.length > 24).every((line) => !line.includes(" ")));
  assert.deepEqual(wrapped("short", 24), ["short"]);
});

test("wrapped() leaves lines alone where there is no room to speak of, or no terminal", () => {
  const text = "a line that is longer than the room there is";
  for (const room of [5, Number.POSITIVE_INFINITY, Number.NaN]) assert.deepEqual(wrapped(text, room), [text]);
});
