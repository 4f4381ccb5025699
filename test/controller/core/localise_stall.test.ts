import assert from "node:assert/strict";
import { test } from "node:test";
import {
  localiseStall,
  type RankSighting,
  type StallVerdict,
} from "../../../controller/core/localise_stall.js";
import type { RankPage } from "../../../controller/core/wire.js";

function seen(rank: number, page: Partial<RankPage>, unchangedMs = 6_000): RankSighting {
  const whole: RankPage = {
    rank,
    pid: 100 + rank,
    step: 40,
    microStep: 0,
    phase: "backward",
    layer: 3,
    entered: 100,
    completed: 100,
    collective: "all_gather",
    group: "shard.0",
    unchangedMs,
    blockedMs: 0,
    generation: 1,
    times: null,
    ...page,
  };
  return { rank, nodeId: `n${rank >> 1}`, page: whole, unchangedMs };
}
const waiting = (rank: number, entered = 101) => seen(rank, { entered, completed: entered - 1 });
const unseen = (rank: number): RankSighting => ({
  rank,
  nodeId: `n${rank >> 1}`,
  page: null,
  unchangedMs: 9_000,
});

const ranks =
  (...who: number[]) =>
  (verdict: StallVerdict) =>
    assert.deepEqual(verdict.kind === "ranks" && verdict.ranks, who, JSON.stringify(verdict));
const kind = (wanted: StallVerdict["kind"]) => (verdict: StallVerdict) =>
  assert.equal(verdict.kind, wanted, JSON.stringify(verdict));

const cases: [name: string, sightings: RankSighting[], check: (verdict: StallVerdict) => void][] = [
  [
    "names the rank that computes while the others wait",
    [waiting(0), seen(1, {}), waiting(2), waiting(3)],
    ranks(1),
  ],
  [
    "names the furthest behind when several do not wait",
    [waiting(0), seen(1, { entered: 90, completed: 90 }), seen(2, {})],
    ranks(1),
  ],
  [
    "names both when two are equally far behind",
    [waiting(0), waiting(1), seen(2, {}), seen(3, {})],
    ranks(2, 3),
  ],
  [
    "does not blame a peer that waits in an earlier collective",
    [seen(0, { entered: 99, completed: 99 }), waiting(1, 100), waiting(2, 140), waiting(3, 140)],
    ranks(0),
  ],
  [
    "names the one that is inside a collective which all others have left",
    [waiting(0, 100), waiting(1), waiting(2), waiting(3)],
    ranks(0),
  ],
  [
    "names the nodes that cannot be seen when everyone else waits",
    [waiting(0), waiting(1), unseen(2), unseen(3)],
    (v) => assert.deepEqual(v.kind === "nodes" && v.nodeIds, ["n1"]),
  ],
  [
    "prefers a rank seen to hang over nodes that cannot be seen",
    [waiting(0), seen(1, {}), unseen(2)],
    ranks(1),
  ],
  [
    "knows nothing when all wait in the same collective",
    [waiting(0), waiting(1), waiting(2)],
    kind("unknown"),
  ],
  ["knows nothing when nobody waits", [seen(0, {}), seen(1, {})], kind("unknown")],
  [
    "knows nothing when the idle rank is not behind",
    [waiting(0, 100), seen(1, { entered: 100, completed: 100 })],
    kind("unknown"),
  ],
  ["knows nothing about nobody", [unseen(0), unseen(1)], kind("unseen")],
  [
    "leaves finished ranks out",
    [seen(0, { phase: "finished", entered: 3, completed: 3 }), waiting(1), seen(2, {})],
    ranks(2),
  ],
];
for (const [name, sightings, check] of cases)
  test(`localiseStall() ${name}`, () => check(localiseStall(sightings)));

test("localiseStall() says who, where, for how long, and what waits for it", () => {
  const verdict = localiseStall([waiting(0), seen(1, { phase: "forward", layer: 4 }, 6_240), waiting(2)]);
  assert.equal(
    verdict.reason,
    "rank 1 on n0 has not moved for 6.2 s (step 41, forward, layer 4); 2 ranks wait in all_gather of shard.0 (number 101)",
  );
});
