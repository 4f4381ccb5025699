import assert from "node:assert/strict";
import { test } from "node:test";
import { cellAt, layGrid, neighbour, rankAt } from "../../../controller/web/grid_geometry.js";

/** Ranks of nodes with so many slots each. */
const nodesOf = (...slots: number[]) => slots.flatMap((count, node) => new Array<number>(count).fill(node));
const cases: { name: string; nodeOf: number[]; nodes: number }[] = [
  { name: "one rank", nodeOf: [0], nodes: 1 },
  { name: "two nodes of two", nodeOf: nodesOf(2, 2), nodes: 2 },
  { name: "uneven nodes", nodeOf: nodesOf(3, 1, 16, 5), nodes: 4 },
  { name: "ranks of a node that do not follow each other", nodeOf: [0, 1, 0, 1], nodes: 2 },
  { name: "12,288 ranks", nodeOf: nodesOf(...new Array<number>(1_536).fill(8)), nodes: 1_536 },
];

for (const { name, nodeOf, nodes } of cases)
  for (const width of [300, 1_200])
    test(`layGrid() ${width} pixels wide, ${name}: every cell is inside and belongs to its rank alone`, () => {
      const grid = layGrid(nodeOf, nodes, width);
      const seen = new Set<string>();
      for (const [rank] of nodeOf.entries()) {
        const { x, y } = cellAt(grid, rank);
        assert.ok(
          x >= 0 && x + grid.cell <= width && y >= 0 && y + grid.cell <= grid.height + 1,
          `rank ${rank}`,
        );
        assert.equal(rankAt(grid, x + grid.cell / 2, y + grid.cell / 2), rank);
        seen.add(`${x} ${y}`);
      }
      assert.equal(seen.size, nodeOf.length);
    });

test("rankAt() is null beside the cells", () => {
  const grid = layGrid(nodesOf(2, 2), 2, 600);
  assert.equal(rankAt(grid, -1, 5), null);
  assert.equal(rankAt(grid, 599, 30), null);
  assert.equal(rankAt(grid, 5, 2), null, "the node's name");
});

test("neighbour(): arrows lead to the next rank and the next row, and no further than the last", () => {
  const grid = layGrid(nodesOf(16, 16), 2, 600);
  assert.deepEqual(
    [
      neighbour(grid, 0, "ArrowLeft"),
      neighbour(grid, 0, "ArrowRight"),
      neighbour(grid, 0, "ArrowDown"),
      neighbour(grid, 8, "ArrowUp"),
      neighbour(grid, 0, "ArrowUp"),
      neighbour(grid, 5, "End"),
      neighbour(grid, 5, "Home"),
      neighbour(grid, 31, "ArrowRight"),
    ],
    [0, 1, 8, 0, 0, 31, 0, 31],
  );
});
