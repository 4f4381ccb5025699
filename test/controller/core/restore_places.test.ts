import assert from "node:assert/strict";
import { test } from "node:test";
import { type MemoryNode, type MemoryState, memoryStates } from "../../../controller/core/memory_states.js";
import { type RestorePlace, restorePlaces } from "../../../controller/core/restore_places.js";
import { modelConfig } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import type { ModelPreset } from "../../../job/model_config.js";
import { parameterSpecs } from "../../../job/parameters.js";
import { flatUnits, shardPieces } from "../../../job/sharding.js";

const unitsOf = (preset: ModelPreset) => flatUnits(parameterSpecs(modelConfig({ model: { preset } })));
const NANO = unitsOf("goku-nano");
const state = { generation: 3, step: 41 };

/** One state in memory: `held` names the ranks whose snapshots a node has. */
function memoryOf(layout: Layout, held: ReadonlyMap<string, readonly number[]>): MemoryState {
  const nodes: MemoryNode[] = [...held].map(([nodeId, ranks]) => ({
    nodeId,
    serves: true,
    held: ranks.map((rank) => ({ state, rank, layout: layout.toString() })),
  }));
  return memoryStates(nodes, layout)[0]!;
}
const text = (places: readonly RestorePlace[] | undefined) =>
  (places ?? []).map(({ rank, nodeId }) => `${rank} on ${nodeId}`).join(", ");

test("restorePlaces() names other holders of what a node needs, also beside its own copy, which may be damaged", () => {
  const layout = Layout.parse("1x2x2");
  const memory = memoryOf(
    layout,
    new Map([
      ["b", [2, 3, 0, 1]],
      ["d", [3]],
    ]),
  );
  const places = restorePlaces({ layout, rankNodes: ["c", "c", "b", "b"], memory, units: NANO });
  assert.equal(text(places.get("c")), "0 on b, 1 on b");
  assert.equal(text(places.get("b")), "3 on d");
});

test("restorePlaces() gives several holders of a shard, at most three, and spreads their readers", () => {
  const layout = Layout.parse("6x1x1");
  const memory = memoryOf(layout, new Map(["a", "b", "c", "d"].map((id, rank) => [id, [rank]])));
  const rankNodes = ["a", "b", "c", "d", "e", "f"];
  const places = restorePlaces({ layout, rankNodes, memory, units: NANO });
  assert.equal(text(places.get("a")), "1 on b, 2 on c, 3 on d");
  assert.equal(text(places.get("e")), "0 on a, 1 on b, 2 on c");
  assert.equal(text(places.get("f")), "1 on b, 2 on c, 3 on d");
});

/** Slow twin: shards of `from` that share an element with shard `index` of `to`, piece by piece. */
function overlapping(from: Layout, to: Layout, index: number): number[] {
  const wanted = shardPieces(NANO, to, index);
  return Array.from({ length: from.shardGroupSize }, (_, shard) => shard).filter((shard) =>
    shardPieces(NANO, from, shard).some((held) =>
      wanted.some(
        (piece) =>
          piece.parameter === held.parameter &&
          piece.start < held.start + held.length &&
          held.start < piece.start + piece.length,
      ),
    ),
  );
}

test("restorePlaces() of another layout names exactly the old shards that share an element with the new ones", () => {
  for (const [from, to] of [
    ["1x4x1", "1x2x1"],
    ["1x2x2", "1x3x1"],
    ["1x3x1", "1x5x1"],
    ["2x3x1", "1x1x2"],
    ["1x7x1", "2x2x2"],
  ] as const) {
    const [old, layout] = [Layout.parse(from), Layout.parse(to)];
    const all = Array.from({ length: old.worldSize }, (_, rank) => rank);
    const memory = memoryOf(old, new Map([["keeper", all]]));
    const rankNodes = Array.from({ length: layout.worldSize }, (_, rank) => `n${rank}`);
    const places = restorePlaces({ layout, rankNodes, memory, units: NANO });
    for (const [rank, nodeId] of rankNodes.entries()) {
      const shards = new Set(places.get(nodeId)!.map((place) => place.rank % old.shardGroupSize));
      assert.deepEqual([...shards], overlapping(old, layout, rank), `${from} to ${to}, rank ${rank}`);
    }
  }
});

test("restorePlaces() of 8B over 8,192 ranks, re-partitioned, takes seconds at most and messages stay small", () => {
  const old = new Layout({ dp_replicate: 1, dp_shard: 1_024, sp: 8 });
  const layout = new Layout({ dp_replicate: 1, dp_shard: 1_016, sp: 8 });
  const nodes = Array.from({ length: 1_024 }, (_, i) => `n${i}`);
  const held = new Map(nodes.map((id, i) => [id, Array.from({ length: 8 }, (_, k) => 8 * i + k)]));
  const memory = memoryOf(old, held);
  const rankNodes = Array.from({ length: layout.worldSize }, (_, rank) => nodes[Math.floor(rank / 8)]!);
  const startMs = performance.now();
  const places = restorePlaces({ layout, rankNodes, memory, units: unitsOf("goku-8b") });
  const tookMs = performance.now() - startMs;
  assert.ok(tookMs < 3_000, `${tookMs.toFixed(0)} ms`);
  const longest = Math.max(...[...places.values()].map((list) => list.length));
  assert.ok(longest <= 20, `${longest} places in one message`);
});
