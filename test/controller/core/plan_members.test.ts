import assert from "node:assert/strict";
import { test } from "node:test";
import type { AssignableNode } from "../../../controller/core/assign_ranks.js";
import { type MembersInput, type MembersPlan, planMembers } from "../../../controller/core/plan_members.js";
import { chooseLayout } from "../../../job/choose_layout.js";
import type { LayoutSize } from "../../../job/layout.js";
import { jobOf } from "./harness.js";

const node = (nodeId: string, slots: number) => ({ nodeId, slots, serves: false, held: [] });
const fixed: LayoutSize = { dp_replicate: 1, dp_shard: 2, sp: 2 };
const prior = { layout: fixed, rankNodes: ["a", "a", "b", "b"] };

function plan(input: Partial<MembersInput>): MembersPlan {
  return planMembers({
    nowMs: 100_000,
    job: jobOf({ layout: fixed }),
    nodes: [],
    prior: null,
    aborted: true,
    replicated: null,
    excludedSnapshots: new Set(),
    givenUp: new Map(),
    avoid: new Map(),
    waitSinceMs: 90_000,
    nodesChangedMs: 0,
    busySlots: 0,
    layoutSettleMs: 2_000,
    chooseLayout,
    ...input,
  });
}
/** A node that its peers can read from, with snapshots "generation-step/rank" of the layout 1x2x2. */
function holder(nodeId: string, slots: number, held: string, layout = "1x2x2"): AssignableNode {
  const snapshots = held.split(" ").map((each) => {
    const [generation, step, rank] = each.split(/[-/]/).map(Number);
    return { state: { generation: generation!, step: step! }, rank: rank!, layout };
  });
  return { nodeId, slots, serves: true, held: snapshots };
}
const keeper = holder("a", 2, "1-42/0 1-42/1 1-41/0 1-41/1 1-41/2 1-41/3");
const empty = { nodeId: "c", slots: 2, serves: true, held: [] };
const auto = jobOf({ layout: "auto" });

interface Case {
  name: string;
  input: Partial<MembersInput>;
  want: string;
}
const cases: Case[] = [
  {
    name: "forms when the slots suffice",
    input: { nodes: [node("a", 2), node("b", 2)] },
    want: "form 1x2x2 a a b b",
  },
  {
    name: "waits for a fixed layout with too few slots",
    input: { nodes: [node("a", 2)] },
    want: "wait never",
  },
  {
    name: "waits until no node joins any more before an auto layout",
    input: { job: auto, nodes: [node("a", 2)], nodesChangedMs: 99_000 },
    want: "wait 101000",
  },
  {
    name: "takes all free slots for an auto layout",
    input: { job: auto, nodes: [node("a", 2), node("b", 1)] },
    want: "form 1x3x1 a a b",
  },
  { name: "waits with an auto layout while there is no slot", input: { job: auto }, want: "wait never" },
  {
    name: "forms again on the nodes that answer",
    input: { prior, nodes: [node("a", 2), node("b", 2), node("c", 2)] },
    want: "form 1x2x2 a a b b",
  },
  {
    name: "waits for a lost node though a spare is there",
    input: { prior, nodes: [node("a", 2), node("c", 2)] },
    want: "wait 150000",
  },
  {
    name: "takes a spare at once when the others hold what was replicated last",
    input: { prior, nodes: [keeper, empty], replicated: { generation: 1, step: 41 } },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "waits for a lost node while the others are known to hold something newer than they tell",
    input: { prior, nodes: [keeper, empty], replicated: { generation: 1, step: 42 } },
    want: "wait 150000",
  },
  {
    name: "takes a spare at once where nobody knows what was replicated, but the newest generation is held whole",
    input: { prior, nodes: [keeper, empty] },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "waits for a lost node while the others hold only an older generation whole",
    input: {
      prior,
      nodes: [holder("a", 2, "2-43/0 2-43/1 1-41/0 1-41/1 1-41/2 1-41/3"), empty],
    },
    want: "wait 150000",
  },
  {
    name: "waits for a lost node while one shard is nowhere else",
    input: { prior, nodes: [holder("a", 2, "1-42/0 1-42/1 1-41/0 1-41/1 1-41/3"), empty] },
    want: "wait 150000",
  },
  {
    name: "waits for a lost node while what the others hold cannot be restored",
    input: { prior, nodes: [keeper, empty], excludedSnapshots: new Set(["1-41"]) },
    want: "wait 150000",
  },
  {
    name: "waits for a lost node whose generation nobody could be told to leave: it may be training",
    input: { prior, nodes: [keeper, empty], aborted: false },
    want: "wait 150000",
  },
  {
    name: "waits for a lost node whose replicas nobody can read",
    input: { prior, nodes: [{ ...keeper, serves: false }, empty] },
    want: "wait 150000",
  },
  {
    name: "counts only on what members hold: others are not sure to become one",
    input: { prior, nodes: [node("a", 2), { ...keeper, nodeId: "c" }] },
    want: "wait 150000",
  },
  {
    name: "waits the grace before an auto layout shrinks, replicas or not",
    input: { job: auto, prior, nodes: [keeper] },
    want: "wait 150000",
  },
  {
    name: "takes a spare at once where twins hold the state",
    input: {
      job: jobOf({ layout: { dp_replicate: 2, dp_shard: 2, sp: 1 } }),
      prior: { layout: { dp_replicate: 2, dp_shard: 2, sp: 1 }, rankNodes: ["a", "a", "b", "b"] },
      nodes: [holder("a", 2, "1-42/0 1-42/1", "2x2x1"), empty],
    },
    want: "form 2x2x1 a a c c",
  },
  {
    name: "takes a spare when the grace is over",
    input: { prior, nodes: [node("a", 2), node("c", 2)], waitSinceMs: 40_000 },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "takes a spare at once for a node that is given up",
    input: { prior, nodes: [node("a", 2), node("c", 2)], givenUp: new Map([["b", "bad"]]) },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "shrinks an auto layout when the grace is over",
    input: { job: auto, prior, nodes: [node("a", 2)], waitSinceMs: 40_000 },
    want: "form 1x2x1 a a",
  },
  {
    name: "is exhausted when a fixed layout has no spare after the grace",
    input: { prior, nodes: [node("a", 2)], waitSinceMs: 40_000 },
    want: "exhausted NODE_LOST",
  },
  {
    name: "waits the grace when a node returns with fewer slots",
    input: { prior, nodes: [node("a", 2), node("b", 1)] },
    want: "wait 150000",
  },
  {
    name: "leaves a node that keeps failing when others suffice",
    input: { prior, nodes: [node("a", 2), node("b", 2), node("c", 2)], avoid: new Map([["b", "3 faults"]]) },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "stays on a node that keeps failing when nothing else is free",
    input: { prior, nodes: [node("a", 2), node("b", 2)], avoid: new Map([["b", "3 faults"]]) },
    want: "form 1x2x2 a a b b",
  },
];

function text(result: MembersPlan): string {
  if (result.kind === "form") return `form ${result.layout} ${result.rankNodes.join(" ")}`;
  return result.kind === "wait" ? `wait ${result.retryAtMs ?? "never"}` : `exhausted ${result.code}`;
}
for (const { name, input, want } of cases) {
  test(`planMembers() ${name}`, () => {
    const result = plan(input);
    assert.equal(text(result), want, result.reason);
  });
}

test("planMembers() prints the arithmetic of a layout that has to wait", () => {
  assert.equal(
    plan({ nodes: [node("a", 2), node("b", 1)], busySlots: 8 }).reason,
    "layout 1x2x2 needs dp_replicate 1 * dp_shard 2 * sp 2 = 4 ranks: 3 slots free on 2 nodes, 8 more serve other jobs",
  );
});

test("planMembers() names what it waits for, and for how long", () => {
  assert.equal(
    plan({ prior, nodes: [node("a", 2)] }).reason,
    "waits for b (ranks 2, 3), at most 60 s: the state in its memory is the newest",
  );
});

test("planMembers() says why nobody waits for a lost node", () => {
  assert.equal(
    plan({ prior, nodes: [keeper, empty], replicated: { generation: 1, step: 41 } }).reason,
    "b (ranks 2, 3) cannot be reached, step 41 of generation 1 is whole in the memory of the others: they take over at once",
  );
});
