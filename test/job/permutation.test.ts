import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Permutation } from "../../job/permutation.js";

function all(count: number, seed = 1, epoch = 0, domain = 0): number[] {
  const permutation = new Permutation({ count, seed, epoch, domain });
  return Array.from({ length: count }, (_, i) => permutation.at(i));
}

describe("Permutation", () => {
  for (const count of [1, 2, 3, 4, 5, 16, 17, 255, 1000]) {
    it(`takes each of ${count} numbers exactly once`, () => {
      assert.deepEqual(
        all(count).sort((a, b) => a - b),
        Array.from({ length: count }, (_, i) => i),
      );
    });
  }

  it("differs between seeds, epochs and domains", () => {
    const orders = [all(100), all(100, 2), all(100, 1, 1), all(100, 1, 0, 1), all(100, 2 ** 40)];
    assert.equal(new Set(orders.map(String)).size, orders.length);
  });

  it("moves small counts about evenly: over epochs each place sees each number", () => {
    const seen = Array.from({ length: 6 }, () => new Array<number>(6).fill(0));
    const epochs = 1200;
    for (let epoch = 0; epoch < epochs; epoch++)
      for (const [place, value] of all(6, 1, epoch).entries()) seen[place]![value]! += 1;
    // 200 expected, deviation of a fair draw about 13: 5 deviations
    for (const counts of seen)
      for (const count of counts) assert.ok(Math.abs(count - epochs / 6) < 65, String(seen));
  });

  it("refuses an index outside", () => {
    const permutation = new Permutation({ count: 3, seed: 1, epoch: 0, domain: 0 });
    for (const index of [-1, 3, Number.NaN]) assert.throws(() => permutation.at(index), RangeError);
  });
});
