import assert from "node:assert/strict";
import { test } from "node:test";
import { PacedWrites } from "../../../controller/api/paced_writes.js";

/** Messages as they are written, and how those under way end. */
function pacing(largeMax: number) {
  const paced = new PacedWrites(largeMax);
  const written: string[] = [];
  const done = new Map<string, () => void>();
  const write = (session: number, text: string, large = true) =>
    paced.write(session, large, (end) => {
      written.push(text);
      done.set(text, end);
    });
  return { paced, written, write, end: (text: string) => done.get(text)!() };
}

test("PacedWrites lets so many large messages go at once, and the next when one is out", () => {
  const { written, write, end } = pacing(2);
  for (const session of [1, 2, 3, 4]) write(session, `large ${session}`);
  assert.deepEqual(written, ["large 1", "large 2"]);
  end("large 2");
  assert.deepEqual(written, ["large 1", "large 2", "large 3"]);
  end("large 2"); // told twice: changes nothing
  assert.equal(written.length, 3);
});

test("PacedWrites keeps the order of a session, and small messages of others do not wait", () => {
  const { written, write, end } = pacing(1);
  write(1, "large 1");
  write(2, "large 2");
  write(2, "small 2", false);
  write(2, "second large 2");
  write(2, "last 2", false);
  write(3, "small 3", false);
  assert.deepEqual(written, ["large 1", "small 3"]);
  end("large 1");
  assert.deepEqual(written.slice(2), ["large 2", "small 2"]);
  end("large 2");
  assert.deepEqual(written.slice(4), ["second large 2", "last 2"]);
});

test("PacedWrites goes on when a session ends whose message never went out", () => {
  const { paced, written, write } = pacing(1);
  write(1, "large 1");
  write(2, "large 2");
  write(3, "large 3");
  paced.forget(2);
  paced.forget(1);
  assert.deepEqual(written, ["large 1", "large 3"]);
  paced.forget(3);
  write(4, "large 4");
  assert.deepEqual(written.slice(2), ["large 4"]);
});
