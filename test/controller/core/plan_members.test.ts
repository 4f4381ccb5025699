import assert from "node:assert/strict";
import { test } from "node:test";
import type { AssignableNode } from "../../../controller/core/assign_ranks.js";
import {
  type MembersInput,
  type MembersPlan,
  planMembers,
  worthMsOf,
} from "../../../controller/core/plan_members.js";
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
    finished: null,
    untrained: false,
    excludedSnapshots: new Set(),
    grows: false,
    givenUp: new Map(),
    avoid: new Map(),
    waitSinceMs: 90_000,
    nodesChangedMs: 0,
    busySlots: 0,
    device: "cpu",
    withCuda: new Set(),
    lacking: 0,
    examined: 0,
    ended: new Set(),
    stepHeld: 42,
    stepMs: 30_000,
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
const withSpares = { ...auto, recovery: { ...auto.recovery, spares: 1 } };

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
    name: "leaves spares free with layout auto",
    input: { job: withSpares, nodes: [node("a", 2), node("b", 2), node("c", 2)] },
    want: "form 1x4x1 a a b b",
  },
  {
    name: "uses one node though all were to be spares",
    input: { job: withSpares, nodes: [node("a", 2)] },
    want: "form 1x2x1 a a",
  },
  {
    name: "replaces a lost node by a spare",
    input: {
      job: withSpares,
      prior: { layout: { dp_replicate: 1, dp_shard: 4, sp: 1 }, rankNodes: ["a", "a", "b", "b"] },
      nodes: [node("b", 2), node("c", 2)],
      waitSinceMs: 0,
    },
    want: "form 1x4x1 c c b b",
  },
  {
    name: "waits for no memory after a vote whose state is durable",
    input: {
      prior,
      nodes: [node("a", 2), node("c", 2)],
      waitSinceMs: 100_000,
      finished: { generation: 1, step: 42 },
    },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "takes all that is left when it shrinks",
    input: {
      job: withSpares,
      prior: { layout: { dp_replicate: 1, dp_shard: 6, sp: 1 }, rankNodes: ["a", "a", "b", "b", "c", "c"] },
      nodes: [node("b", 2), node("c", 2)],
      waitSinceMs: 0,
    },
    want: "form 1x4x1 b b c c",
  },
  {
    name: "grows into what is free but for spares, and keeps its members",
    input: {
      job: withSpares,
      prior: { layout: { dp_replicate: 1, dp_shard: 2, sp: 1 }, rankNodes: ["c", "c"] },
      nodes: [node("a", 2), node("b", 2), node("c", 2)],
      grows: true,
    },
    want: "form 1x4x1 a a c c",
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
    name: "waits for an agent that ended as long as the step that only its memory holds would take again",
    input: { prior, nodes: [keeper, empty], ended: new Set(["b"]) },
    want: "wait 120000",
  },
  {
    name: "takes a spare once an agent that ended has been waited for as long as that",
    input: { prior, nodes: [keeper, empty], ended: new Set(["b"]), waitSinceMs: 70_000 },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "takes a spare at once where an agent ended and the others hold what it held",
    input: { prior, nodes: [keeper, empty], ended: new Set(["b"]), stepHeld: 41 },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "takes a spare at once where an agent ended and how long steps take is not known",
    input: { prior, nodes: [keeper, empty], ended: new Set(["b"]), stepMs: 0 },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "takes spares at once where of two lost nodes one is silent: what both held is not coming back",
    input: {
      prior: { layout: fixed, rankNodes: ["a", "a", "b", "d"] },
      nodes: [keeper, empty],
      ended: new Set(["b"]),
    },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "moves nobody to an older state where a node that is avoided serves a newer one",
    input: {
      prior,
      nodes: [
        holder("a", 2, "1-42/0 1-42/1"),
        holder("b", 2, "1-42/2 1-42/3 1-41/0 1-41/1"),
        holder("c", 2, "1-41/2 1-41/3"),
      ],
      avoid: new Map([["a", "it and b cannot connect to each other"]]),
    },
    want: "form 1x2x2 c c b b",
  },
  {
    name: "takes a spare at once where no generation has trained yet",
    input: { prior, nodes: [node("a", 2), node("c", 2)], untrained: true },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "waits where no generation has trained yet and no spare is free",
    input: { prior, nodes: [node("a", 2)], untrained: true },
    want: "wait 150000",
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

test("worthMsOf() is what the steps that an older copy lacks would take", () => {
  for (const [stepHeld, stepKept, stepMs, want] of [
    [42, 35, 200, 1_400],
    [42, 42, 200, 0],
    [42, 43, 200, 0], // pages lag behind what was kept
    [42, 0, 0, 0],
    [42, 41, 0.4, 1],
  ] as const)
    assert.equal(worthMsOf({ stepHeld, stepKept, stepMs }), want, `${stepHeld} ${stepKept} ${stepMs}`);
});

test("planMembers() says how long it waits for an agent that ended, and why", () => {
  assert.equal(
    plan({ prior, nodes: [keeper, empty], ended: new Set(["b"]), stepMs: 1_500 }).reason,
    "b (ranks 2, 3) cannot be reached, step 41 of generation 1 is whole in the memory of the others: they take over at once",
  );
  assert.equal(
    plan({ prior, nodes: [keeper, empty], ended: new Set(["b"]) }).reason,
    "waits for b (ranks 2, 3), whose agent ended, at most 30.0 s: so long would the 1 step take that only its memory holds",
  );
});

test("planMembers() says why nobody waits for a lost node", () => {
  assert.equal(
    plan({ prior, nodes: [keeper, empty], replicated: { generation: 1, step: 41 } }).reason,
    "b (ranks 2, 3) cannot be reached, step 41 of generation 1 is whole in the memory of the others: they take over at once",
  );
});

test("planMembers() with device auto: nodes with CUDA devices alone where they suffice, else all, and on the CPU", () => {
  const nodes = [node("a", 2), node("b", 2), node("c", 2)];
  const on = (input: Partial<MembersInput>) => {
    const result = plan({ device: "auto", nodes, ...input });
    return result.kind === "form" ? `${result.device} ${result.rankNodes.join(" ")}` : text(result);
  };
  assert.equal(on({ withCuda: new Set(["b", "c"]) }), "cuda b b c c");
  assert.equal(on({ withCuda: new Set(["c"]) }), "cpu a a b b");
  assert.equal(on({}), "cpu a a b b");
  assert.equal(on({ job: auto, withCuda: new Set(["c"]) }), "cuda c c");
  assert.equal(on({ nodes: [node("a", 2)], withCuda: new Set(["a"]) }), "wait never");
  assert.equal(on({ device: "cpu", withCuda: new Set(["b", "c"]) }), "cpu a a b b");
});

test("planMembers() says which nodes lack the device that the job asks for, and what to do", () => {
  assert.match(
    plan({ device: "cuda", nodes: [node("a", 2)], withCuda: new Set(["a"]), lacking: 3 }).reason,
    /2 slots free on 1 node; 3 more nodes have no CUDA device: see gokuctl doctor there, or set device to auto or cpu$/,
  );
  assert.match(
    plan({ device: "cuda", job: auto, lacking: 1 }).reason,
    /^no slot is free; 1 more node has no CUDA device: .*: start an agent on a machine with a GPU$/,
  );
});
