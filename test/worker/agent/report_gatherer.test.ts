import assert from "node:assert/strict";
import { test } from "node:test";
import type { Report } from "../../../worker/agent/outbox.js";
import { ReportGatherer } from "../../../worker/agent/report_gatherer.js";
import * as messages from "../../support/agent_messages.js";

const generation = 1;
const connected = (rank: number): Report => messages.connected({ generation, rank });
const failed = (rank: number, code = "COMM_PEER_DIED", peer = 9): Report =>
  messages.failed({ generation, rank }, { code, peer, operation: "all_gather" });
const exited = (rank: number): Report => messages.exited({ generation, rank, pid: 5, signal: "SIGKILL" });

test("ReportGatherer sends what all ranks of a node say with the last of them", () => {
  const gatherer = new ReportGatherer();
  const add = (rank: number) => gatherer.add(connected(rank), { nowMs: 100 + rank, ranks: 3 });
  assert.deepEqual(add(0), []);
  assert.equal(gatherer.dueMs, 150);
  assert.deepEqual(add(1), []);
  assert.equal(gatherer.dueMs, 150, "counted from the first");
  assert.deepEqual(add(2), [connected(0), connected(1), connected(2)]);
  assert.equal(gatherer.dueMs, null);
});

test("ReportGatherer does not take a repeat for another rank", () => {
  const gatherer = new ReportGatherer();
  const repeat = { nowMs: 0, ranks: 2 };
  gatherer.add(connected(0), repeat);
  assert.deepEqual(gatherer.add(connected(0), repeat), []);
});

test("ReportGatherer holds nothing for a node of one rank", () => {
  assert.equal(new ReportGatherer().add(connected(0), { nowMs: 0, ranks: 1 }).length, 1);
});

test("ReportGatherer sends a cause at once, behind the echoes that were held", () => {
  const gatherer = new ReportGatherer();
  const now = { nowMs: 100, ranks: 8 };
  assert.deepEqual(gatherer.add(failed(1), now), []);
  assert.equal(gatherer.dueMs, 120);
  assert.deepEqual(gatherer.add(exited(0), now), [failed(1), exited(0)]);
  const cause = failed(2, "LOSS_NOT_FINITE");
  assert.deepEqual(gatherer.add(cause, now), [cause]);
});

test("ReportGatherer gives up what it holds in order", () => {
  const gatherer = new ReportGatherer();
  gatherer.add(connected(1), { nowMs: 0, ranks: 8 });
  gatherer.add(failed(0), { nowMs: 1, ranks: 8 });
  assert.equal(gatherer.dueMs, 21);
  assert.deepEqual(gatherer.take(), [connected(1), failed(0)]);
  assert.deepEqual([gatherer.take(), gatherer.dueMs], [[], null]);
});

test("ReportGatherer joins what ranks say alike of the same peer, and nothing else", () => {
  const gatherer = new ReportGatherer();
  const now = { nowMs: 100, ranks: 8 };
  const said = [
    failed(3),
    failed(0),
    failed(4),
    failed(4),
    failed(5, "COMM_PEER_DIED", 8),
    failed(6, "COMM_ABORTED"),
  ];
  for (const report of said) gatherer.add(report, now);
  const [first, ...rest] = gatherer.take();
  assert.ok(first?.$case === "rankFailed");
  assert.deepEqual([first.value.rank, first.value.others], [3, [0, 4]]);
  assert.deepEqual(rest, said.slice(3), "a repeat, another peer, another error");
  gatherer.add(failed(1, "LOSS_NOT_FINITE"), now);
  assert.deepEqual(gatherer.add(failed(2, "LOSS_NOT_FINITE"), now), [failed(2, "LOSS_NOT_FINITE")]);
});
