import assert from "node:assert/strict";
import { test } from "node:test";
import { commonNode, cutOff, cutPairs } from "../../../controller/core/cut_pairs.js";
import { type Fault, faultOf, judgeFaults } from "../../../controller/core/judge_fault.js";

/** Two ranks a node. */
const nodeOf = (rank: number) => `n${rank >> 1}`;
const unreached = (rank: number, peer: number, more: Partial<Fault> = {}) =>
  faultOf({
    atMs: 0,
    source: "failed",
    code: "COMM_TIMEOUT",
    rank,
    nodeId: nodeOf(rank),
    peer,
    operation: "connect",
    text: `rank ${rank}: rank ${peer} cannot be reached`,
    ...more,
  });
const avoided = (faults: Fault[]) => Object.fromEntries(cutOff(cutPairs(faults, nodeOf)));

test("cutOff() of one pair leaves out the node that reports it, however many of its ranks do", () => {
  const faults = [unreached(2, 0), unreached(3, 1), unreached(3, 0)];
  assert.deepEqual(avoided(faults), { n1: "it and n0 cannot connect to each other" });
});

test("cutOff() leaves out the node that several miss, though all of them report it", () => {
  const faults = [unreached(4, 0), unreached(2, 0), unreached(6, 1)];
  assert.deepEqual(avoided(faults), { n0: "it and n1, n2, n3 cannot connect to each other" });
});

test("cutOff() leaves out one node of each pair where pairs have none in common", () => {
  assert.deepEqual(Object.keys(avoided([unreached(2, 0), unreached(6, 4)])), ["n1", "n3"]);
});

test("cutOff() of a switch that divides the members leaves out the smaller part", () => {
  const faults = [unreached(6, 0), unreached(6, 2), unreached(6, 4), unreached(8, 0), unreached(8, 2)];
  assert.deepEqual(Object.keys(avoided([...faults, unreached(8, 4)])), ["n3", "n4"]);
});

test("cutPairs() takes only ranks that had no answer while they formed, of nodes that are heard", () => {
  for (const [name, fault] of [
    ["a collective that took too long", unreached(2, 0, { operation: "all_reduce" })],
    ["a process that is gone", unreached(2, 0, { code: "COMM_PEER_DIED" })],
    ["nobody named", unreached(2, 0, { peer: null })],
    ["a rank of the same node", unreached(1, 0)],
  ] as const)
    assert.deepEqual(cutPairs([fault], nodeOf), [], name);
  assert.deepEqual(
    cutPairs([unreached(2, 0), unreached(4, 2)], nodeOf, (nodeId) => nodeId !== "n0"),
    [{ fromRank: 4, fromNode: "n2", toRank: 2, toNode: "n1" }],
  );
});

test("commonNode() is null of a single pair: which end is at fault nobody can tell", () => {
  assert.equal(commonNode(cutPairs([unreached(2, 0)], nodeOf)), null);
});

test("judgeFaults() lays a cut to neither node of a single pair, and to the one that several miss", () => {
  const single = judgeFaults([unreached(2, 0), unreached(3, 0)], nodeOf);
  assert.deepEqual([single.code, single.rank, single.nodeId], ["COMM_TIMEOUT", null, null]);
  assert.equal(single.what, "rank 2 on n1 and rank 0 on n0 cannot connect to each other");
  const several = judgeFaults([unreached(2, 0), unreached(4, 0)], nodeOf);
  assert.deepEqual([several.nodeId, several.what], ["n0", "n0 and 2 others cannot connect to each other"]);
});
