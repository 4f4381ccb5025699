import assert from "node:assert/strict";
import { test } from "node:test";
import { Turns } from "../../../checkpoint/storage/turns.js";

test("Turns lets so many go on at once, in the order they came, whatever becomes of those before", async () => {
  const turns = new Turns(2);
  const begun: number[] = [];
  let [running, most] = [0, 0];
  const work = (i: number) => async () => {
    begun.push(i);
    most = Math.max(most, ++running);
    await new Promise(setImmediate);
    running--;
    if (i % 3 === 0) throw new Error(`${i}`);
    return i;
  };
  const all = await Promise.allSettled(Array.from({ length: 10 }, (_, i) => turns.take(work(i))));
  const ends = all.map((each) => (each.status === "fulfilled" ? each.value : (each.reason as Error).message));
  assert.deepEqual(ends, ["0", 1, 2, "3", 4, 5, "6", 7, 8, "9"]);
  assert.deepEqual(begun, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.deepEqual([running, most], [0, 2]);
  assert.equal(await turns.take(work(1)), 1);
});
