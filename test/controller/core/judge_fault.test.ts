import assert from "node:assert/strict";
import { test } from "node:test";
import { awaitsCause, type Fault, faultOf, judgeFaults } from "../../../controller/core/judge_fault.js";

const nodeOf = (rank: number) => `n${rank >> 1}`;
const exit = (rank: number, more: Partial<Fault> = {}) =>
  faultOf({
    atMs: 0,
    source: "exit",
    code: "RANK_DIED",
    rank,
    nodeId: nodeOf(rank),
    text: `rank ${rank} ended`,
    ...more,
  });
const failed = (rank: number, code: Fault["code"], peer: number | null = null) =>
  faultOf({
    atMs: 0,
    source: "failed",
    code,
    rank,
    nodeId: nodeOf(rank),
    peer,
    operation: "all_reduce",
    text: `rank ${rank}: ${code}`,
  });
const restart = faultOf({
  atMs: 0,
  source: "restart",
  code: "NODE_LOST",
  nodeId: "n1",
  text: "the agent of n1 restarted",
});
const stall = faultOf({
  atMs: 0,
  source: "stall",
  code: "RANK_STALLED",
  rank: 3,
  nodeId: "n1",
  text: "rank 3 hangs",
  remedy: "kill",
});

const cases: [name: string, faults: Fault[], code: string, rank: number | null][] = [
  [
    "names the rank that ended, not the peers that missed it",
    [failed(0, "COMM_PEER_DIED", 2), failed(1, "COMM_ABORTED"), exit(2)],
    "RANK_DIED",
    2,
  ],
  ["names the first of several that ended", [exit(1), exit(3)], "RANK_DIED", 1],
  ["names the agent that restarted rather than one of its ranks", [exit(2), restart], "NODE_LOST", null],
  [
    "names the rank with an error of its own",
    [failed(1, "COMM_PEER_DIED", 0), failed(0, "STORAGE_FAILED")],
    "STORAGE_FAILED",
    0,
  ],
  [
    "names the peer that most ranks miss",
    [failed(0, "COMM_PEER_DIED", 3), failed(1, "COMM_PEER_DIED", 2), failed(3, "COMM_PEER_DIED", 2)],
    "COMM_PEER_DIED",
    2,
  ],
  [
    "names the lower of two peers missed equally",
    [failed(0, "COMM_PEER_DIED", 3), failed(1, "COMM_PEER_DIED", 2)],
    "COMM_PEER_DIED",
    2,
  ],
  [
    "names the rank that hung, not its end by our own hand",
    [stall, exit(3, { ordered: true }), failed(0, "COMM_ABORTED")],
    "RANK_STALLED",
    3,
  ],
  ["believes an exit before a timeout", [failed(0, "COMM_TIMEOUT"), exit(1)], "RANK_DIED", 1],
  [
    "takes a timeout when nothing better is known",
    [failed(1, "COMM_ABORTED"), failed(0, "COMM_TIMEOUT")],
    "COMM_TIMEOUT",
    0,
  ],
];
for (const [name, faults, code, rank] of cases) {
  test(`judgeFaults() ${name}`, () => {
    const culprit = judgeFaults(faults, nodeOf);
    assert.deepEqual([culprit.code, culprit.rank], [code, rank], culprit.what);
  });
}

test("judgeFaults() tells how many peers lost a rank, and where", () => {
  const faults = [failed(0, "COMM_PEER_DIED", 2), failed(1, "COMM_PEER_DIED", 2), failed(3, "COMM_ABORTED")];
  assert.equal(judgeFaults(faults, nodeOf).what, "rank 2 on n1 was lost by 2 peers in all_reduce");
});

test("awaitsCause() is true of echoes alone, while whoever saw the cause may still speak", () => {
  const heard = (nodes: string[]) => (nodeId: string) => nodes.includes(nodeId);
  const aborted = failed(0, "COMM_ABORTED");
  const missed = failed(1, "COMM_PEER_DIED", 2);
  const awaits = (faults: Fault[], nodes: string[]) => awaitsCause(faults, nodeOf, heard(nodes));
  assert.equal(awaits([aborted], []), true, "somebody ended its groups, and will say why");
  assert.equal(awaits([aborted, missed], ["n1"]), true, "the agent of n1 will say how rank 2 ended");
  assert.equal(awaits([aborted, missed], ["n0"]), false, "that agent is gone, too");
  for (const cause of [exit(2), restart, stall, failed(2, "STORAGE_FAILED"), failed(3, "COMM_TIMEOUT", 2)])
    assert.equal(awaits([aborted, missed, cause], ["n0", "n1"]), false, cause.text);
});
