import assert from "node:assert/strict";
import { test } from "node:test";
import { readAhead } from "../../checkpoint/read_ahead.js";

/** Counts up to `count`, then throws where `error` is given; tells what it is doing. */
function counting(count: number, error: Error | null = null) {
  const seen = { asked: 0, making: 0, ended: false };
  async function* items(): AsyncGenerator<number, void> {
    try {
      for (let i = 0; i < count; i++) {
        seen.asked++;
        seen.making++;
        await new Promise(setImmediate);
        seen.making--;
        yield i;
      }
      if (error !== null) throw error;
    } finally {
      seen.ended = true;
    }
  }
  return { items: items(), seen };
}

test("readAhead() hands on every item in order, and asks for one while the last is in use", async () => {
  const { items, seen } = counting(5);
  const got: number[] = [];
  for await (const item of readAhead(items)) {
    await new Promise((resolve) => setTimeout(resolve, 1));
    assert.equal(seen.asked, Math.min(5, item + 2));
    got.push(item);
  }
  assert.deepEqual(got, [0, 1, 2, 3, 4]);
});

test("readAhead() throws what its source threw, after the items before it", async () => {
  const error = new Error("of the source");
  const { items } = counting(2, error);
  const got: number[] = [];
  const reading = async () => {
    for await (const item of readAhead(items)) got.push(item);
  };
  await assert.rejects(reading(), error);
  assert.deepEqual(got, [0, 1]);
});

test("readAhead() left early has ended its source, also the item that was being made", async () => {
  const { items, seen } = counting(5);
  for await (const item of readAhead(items)) if (item === 1) break;
  assert.deepEqual(seen, { asked: 3, making: 0, ended: true });
});

test("readAhead() left early swallows what the source throws then", async () => {
  const { items, seen } = counting(1, new Error("too late to be of interest"));
  for await (const _ of readAhead(items)) break;
  assert.equal(seen.ended, true);
});
