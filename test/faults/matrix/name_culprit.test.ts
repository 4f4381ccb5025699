import assert from "node:assert/strict";
import { test } from "node:test";
import type { Incident } from "../../../gen/goku/v1/controller.pb.js";
import type { Culprit, Named } from "./cell.js";
import type { LogLine } from "./member_logs.js";
import { misnamed, nameCulprit, namedText, type TellingRecords } from "./name_culprit.js";

const NODES = ["node-a", "node-a", "node-b", "node-b"];
const NOBODY: Named = { ranks: [], nodes: [], controller: false, etcd: [] };

function named(records: Partial<TellingRecords>): Named {
  return nameCulprit({ incidents: [], news: "", formed: "", lines: [], ...records });
}

function line(member: string, text: string): LogLine {
  return { member, timeMs: 0, text, reason: "" };
}

function incident(values: Partial<Incident>): Incident {
  return { what: "", nodeId: "", rank: undefined, ...values } as Incident;
}

test("nameCulprit() takes the rank and the node of the incident, not the peers that its text tells of", () => {
  const what = "rank 3 on node-b was lost by 2 peers: rank 0 on node-a";
  const found = named({ incidents: [incident({ what, rank: 3, nodeId: "node-b" })] });
  assert.deepEqual(found, { ...NOBODY, ranks: [3], nodes: ["node-b"] });
});

test("nameCulprit() takes both ends of a cut from what was decided, where the incident names no node", () => {
  const found = named({
    incidents: [incident({ what: "no progress: 4 ranks wait in all_gather" })],
    formed: "form generation 3 as 1x2x2: without node-b (it and node-a cannot connect to each other)",
  });
  assert.equal(misnamed(found, { kind: "nodes", nodes: ["node-b", "node-a"] }, NODES), null);
});

test("nameCulprit() names the controller when several agents miss theirs or a standby leads, not when one agent misses it", () => {
  const missing = (...agents: string[]) => agents.map((agent) => line(agent, "no controller"));
  assert.equal(namedText(named({ lines: missing("node-a", "node-b") })), "the controller");
  assert.equal(namedText(named({ lines: missing("node-a", "node-a") })), "");
  assert.equal(
    namedText(named({ lines: [line("controller-2", "c0 leads term 2 with 1 living jobs")] })),
    "the controller",
  );
});

test("nameCulprit() names the member of etcd that a controller misses, and not the controller that agents miss for it", () => {
  const found = named({
    lines: [
      line("controller", "Cannot renew a lease: etcd at 127.0.0.1:2379 (connect ECONNREFUSED)"),
      line("node-a", "no controller"),
      line("node-b", "no controller"),
    ],
  });
  assert.deepEqual(found, { ...NOBODY, etcd: ["127.0.0.1:2379"] });
});

test("nameCulprit() names the member of etcd that was missed first, not one that had no leader for it", () => {
  const missed = (member: string, why: string) =>
    line("controller", `Cannot renew a lease: etcd at ${member} (${why})`);
  const dead = missed("127.0.0.1:1", "connect ECONNREFUSED 127.0.0.1:1");
  const leaderless = missed("127.0.0.1:2", "Deadline exceeded after 1.502s");
  assert.deepEqual(named({ lines: [dead, leaderless] }).etcd, ["127.0.0.1:1"]);
  assert.deepEqual(named({ lines: [leaderless, dead] }).etcd, ["127.0.0.1:2"]);
});

const CULPRITS: readonly { culprit: Culprit; right: Partial<Named>[]; wrong: Partial<Named>[] }[] = [
  {
    culprit: { kind: "rank", rank: 3, node: "node-b" },
    right: [{ ranks: [3], nodes: ["node-b"] }],
    wrong: [
      {},
      { ranks: [2], nodes: ["node-b"] },
      { ranks: [3], nodes: ["node-a"] },
      { nodes: ["node-b"] },
      { ranks: [3], nodes: ["node-a", "node-b"] },
      { ranks: [3], nodes: ["node-b"], controller: true },
    ],
  },
  {
    culprit: { kind: "nodes", nodes: ["node-b"] },
    right: [{ nodes: ["node-b"] }, { ranks: [2], nodes: ["node-b"] }],
    wrong: [{}, { ranks: [0], nodes: ["node-b"] }, { nodes: ["node-a"] }, { nodes: ["node-a", "node-b"] }],
  },
  {
    culprit: { kind: "nodes", nodes: ["node-b", "node-a"] },
    right: [{ nodes: ["node-a", "node-b"] }, { ranks: [0, 3], nodes: ["node-a", "node-b"] }],
    wrong: [{ nodes: ["node-b"] }, { nodes: ["node-a", "node-c"] }],
  },
  {
    culprit: { kind: "controller" },
    right: [{ controller: true }],
    wrong: [{}, { controller: true, nodes: ["node-a"] }, { etcd: ["127.0.0.1:1"] }],
  },
  {
    culprit: { kind: "etcd", members: ["127.0.0.1:1"], quorum: true },
    right: [{ etcd: ["127.0.0.1:1"] }],
    wrong: [{}, { etcd: ["127.0.0.1:2"] }, { etcd: ["127.0.0.1:1", "127.0.0.1:2"] }, { controller: true }],
  },
  {
    culprit: { kind: "etcd", members: ["127.0.0.1:1", "127.0.0.1:2"], quorum: false },
    right: [{ etcd: ["127.0.0.1:1"] }, { etcd: ["127.0.0.1:3"] }],
    wrong: [{}, { etcd: ["127.0.0.1:1"], ranks: [0] }],
  },
  {
    culprit: { kind: "nothing" },
    right: [{}],
    wrong: [{ nodes: ["node-a"] }, { ranks: [0], nodes: ["node-a"] }, { controller: true }],
  },
];

for (const { culprit, right, wrong } of CULPRITS)
  test(`misnamed() allows whom a fault in ${JSON.stringify(culprit)} is in, and refuses every other name`, () => {
    for (const one of right) assert.equal(misnamed({ ...NOBODY, ...one }, culprit, NODES), null);
    for (const one of wrong)
      assert.match(misnamed({ ...NOBODY, ...one }, culprit, NODES) ?? "", /^named .*the fault is in/);
  });
