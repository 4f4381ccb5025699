import assert from "node:assert/strict";
import { test } from "node:test";
import { type AssignableNode, assignRanks } from "../../../controller/core/assign_ranks.js";
import { Layout } from "../../../job/layout.js";

const node = (
  nodeId: string,
  slots: number,
  held: [generation: number, step: number, rank: number, layout?: string][] = [],
): AssignableNode => ({
  nodeId,
  slots,
  serves: false,
  held: held.map(([generation, step, rank, layout]) => ({
    state: { generation, step },
    rank,
    layout: layout ?? "1x4x1",
  })),
});

interface Case {
  name: string;
  layout: string;
  nodes: AssignableNode[];
  prior?: string[];
  want: string;
}
const cases: Case[] = [
  {
    name: "fills nodes one after another",
    layout: "1x4x1",
    nodes: [node("b", 2), node("a", 2)],
    want: "a a b b",
  },
  {
    name: "takes as few nodes as it can",
    layout: "1x4x1",
    nodes: [node("a", 1), node("b", 4), node("c", 2)],
    want: "b b b b",
  },
  {
    name: "keeps a sequence group on one node",
    layout: "1x2x2",
    nodes: [node("a", 3), node("b", 2)],
    want: "a a b b",
  },
  {
    name: "spreads a sequence group that fits no node over the fullest",
    layout: "1x1x4",
    nodes: [node("a", 1), node("b", 2), node("c", 2)],
    want: "b b c c",
  },
  {
    name: "keeps every rank where it was",
    layout: "1x4x1",
    nodes: [node("a", 2), node("b", 2), node("c", 4)],
    prior: ["b", "a", "b", "a"],
    want: "b a b a",
  },
  {
    name: "moves only the ranks of a lost node",
    layout: "1x4x1",
    nodes: [node("a", 2), node("c", 2)],
    prior: ["b", "a", "b", "a"],
    want: "c a c a",
  },
  {
    name: "goes where a whole state lies, prior places or not",
    layout: "1x4x1",
    nodes: [
      node("a", 2, [
        [2, 9, 2],
        [2, 9, 3],
      ]),
      node("b", 2, [
        [2, 9, 0],
        [2, 9, 1],
      ]),
    ],
    prior: ["a", "a", "b", "b"],
    want: "b b a a",
  },
  {
    name: "does not follow an older whole state away from newer parts",
    layout: "1x2x1",
    nodes: [
      node("a", 2, [
        [1, 5, 0, "1x2x1"],
        [2, 9, 0, "1x2x1"],
      ]),
      node("b", 2, [[1, 5, 1, "1x2x1"]]),
      node("c", 2),
    ],
    prior: ["a", "c"],
    want: "a c",
  },
  {
    name: "goes where single snapshots are when nothing is known of before",
    layout: "1x4x1",
    nodes: [node("a", 2, [[2, 9, 3]]), node("b", 2, [[2, 9, 0]])],
    want: "b b a a",
  },
  {
    name: "passes over snapshots of another layout",
    layout: "1x2x1",
    nodes: [node("a", 2), node("b", 2, [[2, 9, 0, "1x4x1"]])],
    want: "a a",
  },
  {
    name: "leaves ranks where they are when a newer state can be read from replicas than lies at any places",
    layout: "1x2x1",
    nodes: [
      node("a", 2, [
        [1, 5, 0, "1x2x1"],
        [1, 5, 1, "1x2x1"],
      ]),
      node("b", 1, [
        [1, 7, 0, "1x2x1"],
        [1, 7, 1, "1x2x1"],
      ]),
    ].map((each) => ({ ...each, serves: true })),
    prior: ["a", "b"],
    want: "a b",
  },
  {
    name: "places the ranks of a lost node on a spare where their keeper is full",
    layout: "1x4x1",
    nodes: [
      node("a", 2, [
        [1, 5, 0],
        [1, 5, 1],
        [1, 5, 2],
        [1, 5, 3],
      ]),
      node("c", 2),
    ].map((each) => ({ ...each, serves: true })),
    prior: ["a", "a", "b", "b"],
    want: "a a c c",
  },
  {
    name: "moves what no longer fits a node that came back smaller",
    layout: "1x4x1",
    nodes: [node("a", 1), node("b", 4)],
    prior: ["a", "a", "b", "b"],
    want: "a b b b",
  },
];
for (const { name, layout, nodes, prior, want } of cases) {
  test(`assignRanks() ${name}`, () => {
    const places = assignRanks({ layout: Layout.parse(layout), nodes, prior: prior ?? null });
    assert.equal(places.join(" "), want);
  });
}

test("assignRanks() gives the same places for nodes in any order", () => {
  const nodes = ["d", "a", "c", "b"].map((id) => node(id, 2));
  const layout = Layout.parse("1x3x2");
  assert.deepEqual(
    assignRanks({ layout, nodes, prior: null }),
    assignRanks({ layout, nodes: [...nodes].reverse(), prior: null }),
  );
});

test("assignRanks() refuses fewer slots than ranks", () => {
  assert.throws(
    () => assignRanks({ layout: Layout.parse("1x3x1"), nodes: [node("a", 2)], prior: null }),
    RangeError,
  );
});

test("assignRanks() places 12,288 ranks, sequence groups whole, no slot twice", () => {
  const nodes = Array.from({ length: 1_536 }, (_, i) => node(`n${i}`, 8));
  const places = assignRanks({ layout: Layout.parse("24x64x8"), nodes, prior: null });
  const counts = new Map<string, number>();
  for (const [rank, nodeId] of places.entries()) {
    counts.set(nodeId, (counts.get(nodeId) ?? 0) + 1);
    assert.equal(nodeId, places[rank - (rank % 8)]);
  }
  assert.ok([...counts.values()].every((count) => count === 8));
});
