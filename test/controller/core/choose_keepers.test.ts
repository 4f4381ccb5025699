import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseKeepers, type KeeperNode, type KeeperPlan } from "../../../controller/core/choose_keepers.js";
import { Layout } from "../../../job/layout.js";
import { Random } from "../../sim/random.js";

/** "a@rack-1 b@rack-1 c!": nodes of 2 slots; `!` cannot be reached by its peers. */
function nodesOf(text: string, slots = 2): KeeperNode[] {
  return text.split(" ").map((each) => {
    const [nodeId, domain] = each.replace("!", "").split("@") as [string, string | undefined];
    return { nodeId, failureDomain: domain ?? nodeId, slots, serves: !each.includes("!") };
  });
}
function plan(options: { layout: string; nodes: string; ranks: string; replicas?: number }): KeeperPlan {
  const { replicas = 1, ranks } = options;
  const layout = Layout.parse(options.layout);
  return chooseKeepers({ replicas, layout, rankNodes: ranks.split(" "), nodes: nodesOf(options.nodes) });
}

interface Case {
  name: string;
  layout: string;
  nodes: string;
  ranks: string;
  replicas?: number;
  /** Keeper of every rank, "-" for none; then what is covered. */
  want: string;
  reason: string;
}
const cases: Case[] = [
  {
    name: "sends all ranks of a node to one other",
    layout: "1x4x1",
    nodes: "a b",
    ranks: "a a b b",
    want: "b b a a domain",
    reason: "replicas: 4 ranks keep a copy on another node",
  },
  {
    name: "goes round over any number of nodes",
    layout: "1x3x2",
    nodes: "b c a",
    ranks: "a a b b c c",
    want: "b b c c a a domain",
    reason: "replicas: 6 ranks keep a copy on another node",
  },
  {
    name: "leaves the failure domain",
    layout: "1x4x1",
    nodes: "a@r1 b@r1 c@r2 d@r2",
    ranks: "a b c d",
    want: "c d a b domain",
    reason: "replicas: 4 ranks keep a copy in another failure domain",
  },
  {
    name: "sends nothing where a twin is in another domain",
    layout: "2x2x1",
    nodes: "a@r1 b@r2",
    ranks: "a a b b",
    want: "- - - - domain",
    reason: "ranks 0-3 have twins in other failure domains, nothing is sent",
  },
  {
    name: "sends out of the domain that both twins are in",
    layout: "2x2x1",
    nodes: "a@r1 b@r1 c@r2",
    ranks: "a c b b",
    want: "c - c - domain",
    reason:
      "replicas: 2 ranks keep a copy in another failure domain; ranks 1, 3 have twins in other failure domains",
  },
  {
    name: "stays inside the only domain, on another node",
    layout: "1x4x1",
    nodes: "a@rack-1 b@rack-1",
    ranks: "a a b b",
    want: "b b a a node",
    reason:
      "replicas stay inside failure domain rack-1: no member is in another; the loss of the whole domain is not covered",
  },
  {
    name: "counts twins on another node where there is one domain",
    layout: "2x1x1",
    nodes: "a@rack-1 b@rack-1",
    ranks: "a b",
    want: "- - node",
    reason:
      "twins stay inside failure domain rack-1: no member is in another; the loss of the whole domain is not covered",
  },
  {
    name: "has nowhere to go on one node",
    layout: "1x2x1",
    nodes: "a",
    ranks: "a a",
    want: "- - nothing",
    reason: "no replica: the job runs on one node",
  },
  {
    name: "is switched off by the job",
    layout: "1x2x1",
    nodes: "a b",
    ranks: "a b",
    replicas: 0,
    want: "- - nothing",
    reason: "no replica: checkpoint.replicas is 0",
  },
  {
    name: "passes over an agent that its peers cannot reach",
    layout: "1x3x1",
    nodes: "a b! c",
    ranks: "a b c",
    want: "c a a domain",
    reason: "replicas: 3 ranks keep a copy on another node",
  },
  {
    name: "says who is left bare when only one agent can be reached",
    layout: "1x2x1",
    nodes: "a b!",
    ranks: "a b",
    want: "- a nothing",
    reason:
      "replicas: 1 rank keeps a copy on another node; no replica of rank 0: no other node's agent can be reached by its peers",
  },
];
for (const { name, want, reason, ...options } of cases) {
  test(`chooseKeepers() ${name}`, () => {
    const found = plan(options);
    const keepers = found.keepers.map((keeper) => keeper ?? "-").join(" ");
    assert.equal(`${keepers} ${found.covers}`, want);
    assert.equal(found.reason, reason);
  });
}

/** A cluster of any shape: uneven slots, uneven domains, some agents that cannot be reached. */
function anyCluster(random: Random): { layout: Layout; rankNodes: string[]; nodes: KeeperNode[] } {
  const domains = random.between(1, 5);
  const nodes = Array.from({ length: random.between(2, 12) }, (_, i) => ({
    nodeId: `n${i}`,
    failureDomain: random.chance(0.3) ? `n${i}` : `r${random.between(1, domains)}`,
    slots: random.between(1, 8),
    serves: random.chance(0.9),
  }));
  const places = nodes.flatMap(({ nodeId, slots }) => {
    return new Array<string>(random.between(1, slots)).fill(nodeId);
  });
  const twins = places.length % 2 === 0 && random.chance(0.3) ? 2 : 1;
  const layout = new Layout({ dp_replicate: twins, dp_shard: places.length / twins, sp: 1 });
  return { layout, rankNodes: places, nodes };
}

test("chooseKeepers() protects every rank that can be, in 2,000 clusters of any shape, whatever order the nodes come in", () => {
  const random = new Random(16);
  for (let i = 0; i < 2_000; i++) {
    const cluster = anyCluster(random);
    const { layout, rankNodes, nodes } = cluster;
    const { keepers, kept, covers, reason } = chooseKeepers({ replicas: 1, ...cluster });
    const of = new Map(nodes.map((node) => [node.nodeId, node]));
    const label = JSON.stringify({ ...cluster, keepers, reason });
    let safe = true;
    for (const [rank, nodeId] of rankNodes.entries()) {
      const { failureDomain } = of.get(nodeId)!;
      const others = layout.replicaGroup(rank).map((twin) => of.get(rankNodes[twin]!)!);
      const hasTwin = others.some((node) => node.failureDomain !== failureDomain);
      const canLeave = nodes.some((node) => node.serves && node.failureDomain !== failureDomain);
      const keeper = keepers[rank] == null ? null : of.get(keepers[rank]!)!;
      assert.ok(keeper === null || (keeper.serves && keeper.nodeId !== nodeId), label);
      safe &&= hasTwin || (keeper !== null && keeper.failureDomain !== failureDomain);
      if (hasTwin) assert.equal(keeper, null, label);
      else if (canLeave) assert.ok(keeper !== null && keeper.failureDomain !== failureDomain, label);
    }
    const total = [...kept.values()].reduce((sum, ranks) => sum + ranks.length, 0);
    assert.equal(total, keepers.filter((keeper) => keeper !== null).length, label);
    assert.equal(covers === "domain", safe, label);
    const again = chooseKeepers({ replicas: 1, layout, rankNodes, nodes: [...nodes].reverse() });
    assert.deepEqual(again.keepers, keepers, label);
  }
});

/** Nodes of equal slots, all in use, in racks of any size. */
function racks(sizes: readonly number[], slots: number): { rankNodes: string[]; nodes: KeeperNode[] } {
  const nodes = sizes.flatMap((size, rack) =>
    Array.from({ length: size }, (_, i) => ({
      nodeId: `r${rack}-n${String(i).padStart(4, "0")}`,
      failureDomain: `r${rack}`,
      slots,
      serves: true,
    })),
  );
  return { nodes, rankNodes: nodes.flatMap(({ nodeId }) => new Array<string>(slots).fill(nodeId)) };
}

test("chooseKeepers() fills every slot once where no rack is more than half, and at most two keepers a node", () => {
  for (const sizes of [
    [1, 1],
    [1, 1, 1],
    [4, 4],
    [3, 3, 3],
    [1, 2, 3],
    [5, 1, 2, 2],
    [2, 2, 1, 1, 1, 1],
  ]) {
    const { rankNodes, nodes } = racks(sizes, 8);
    const layout = new Layout({ dp_replicate: 1, dp_shard: rankNodes.length, sp: 1 });
    const { keepers, kept } = chooseKeepers({ replicas: 1, layout, rankNodes, nodes });
    assert.ok(
      nodes.every(({ nodeId }) => kept.get(nodeId)?.length === 8),
      `racks of ${sizes}: ${[...kept.values()].map((ranks) => ranks.length)}`,
    );
    for (const { nodeId } of nodes) {
      const used = new Set(keepers.filter((_, rank) => rankNodes[rank] === nodeId));
      assert.ok(used.size <= 2, `racks of ${sizes}: ${nodeId} sends to ${[...used]}`);
    }
  }
});

test("chooseKeepers() shares out what the largest rack sends over all slots outside it", () => {
  const { rankNodes, nodes } = racks([6, 1, 2], 4);
  const layout = new Layout({ dp_replicate: 1, dp_shard: rankNodes.length, sp: 1 });
  const { kept } = chooseKeepers({ replicas: 1, layout, rankNodes, nodes });
  const load = (rack: string) =>
    nodes.filter((n) => n.failureDomain === rack).map((n) => kept.get(n.nodeId)!.length);
  assert.deepEqual([...load("r1"), ...load("r2")], [8, 8, 8]);
  assert.deepEqual(load("r0"), [2, 2, 2, 2, 2, 2]);
});

test("chooseKeepers() of 12,288 ranks in 48 racks takes less than a second", () => {
  const { rankNodes, nodes } = racks(new Array<number>(48).fill(32), 8);
  const layout = new Layout({ dp_replicate: 1, dp_shard: 12_288, sp: 1 });
  const startMs = performance.now();
  const { kept } = chooseKeepers({ replicas: 1, layout, rankNodes, nodes });
  assert.ok(performance.now() - startMs < 1_000);
  assert.ok([...kept.values()].every((ranks) => ranks.length === 8));
});
