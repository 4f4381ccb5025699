import assert from "node:assert/strict";
import { test } from "node:test";
import { evenSplit, partOf } from "../../job/layout.js";

test("partOf() names the part of an even split that holds an item, also where parts are empty", () => {
  for (let count = 0; count <= 30; count++) {
    for (let parts = 1; parts <= 12; parts++) {
      const held: number[] = [];
      for (let index = 0; index < parts; index++) {
        const { start, length } = evenSplit({ count, parts, index });
        assert.equal(
          start,
          held.length,
          `${count} over ${parts}: part ${index} begins where the last one ends`,
        );
        for (let i = 0; i < length; i++) held.push(index);
      }
      assert.equal(held.length, count);
      assert.deepEqual(
        held.map((_, item) => partOf({ count, parts, item })),
        held,
        `${count} over ${parts}`,
      );
    }
  }
});
