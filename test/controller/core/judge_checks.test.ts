import assert from "node:assert/strict";
import { test } from "node:test";
import {
  badText,
  COMPARISONS,
  type FleetNode,
  fleetMedians,
  judgeChecks,
} from "../../../controller/core/judge_checks.js";
import type { CheckReading } from "../../../controller/core/state.js";

const reading = (name: string, value: number, more: Partial<CheckReading> = {}): CheckReading => ({
  name,
  ok: true,
  value,
  unit: "GB/s",
  detail: "",
  seconds: 0.1,
  uncertainty: 0,
  device: null,
  ...more,
});
/** Nodes n0, n1, ... on machines of their own, each with one reading of that value. */
const fleetOf = (name: string, values: number[], more: Partial<FleetNode> = {}): FleetNode[] =>
  values.map((value, i) => ({
    nodeId: `n${i}`,
    machine: `10.0.0.${i}`,
    device: "cpu",
    readings: [reading(name, value)],
    ...more,
  }));
const judge = (node: FleetNode, fleet: FleetNode[]) => judgeChecks(node, fleetMedians(fleet));
const verdicts = (fleet: FleetNode[]) => fleet.map((node) => judge(node, fleet)[0]!.verdict).join(" ");

test("judgeChecks() calls a node slow below its fraction of the median, and not at it", () => {
  assert.equal(verdicts(fleetOf("copy", [10, 10, 10, 4.9])), "ok ok ok slow");
  assert.equal(verdicts(fleetOf("copy", [10, 10, 10, 5])), "ok ok ok ok");
  assert.equal(verdicts(fleetOf("matrix", [59, 100, 120])), "slow ok ok");
  assert.equal(verdicts(fleetOf("collective", [1, 1, 1, 0.2])), "ok ok ok slow");
});

test("judgeChecks() compares with at least three machines, nodes at one address being one machine", () => {
  assert.equal(verdicts(fleetOf("copy", [10, 1])), "ok ok");
  const crowd = fleetOf("copy", [10, 10, 10, 1], { machine: "127.0.0.1" });
  assert.equal(verdicts(crowd), "ok ok ok ok");
  assert.equal(judge(crowd[0]!, crowd)[0]!.median, null);
});

test("judgeChecks() does not call a node slow that shares its machine with another", () => {
  const fleet = fleetOf("copy", [10, 10, 10, 2, 3]);
  for (const node of fleet.slice(3)) node.machine = "10.0.0.9";
  assert.equal(verdicts(fleet), "ok ok ok ok ok");
});

test("judgeChecks() compares with nodes of the same device alone", () => {
  const fleet = [...fleetOf("copy", [10, 10, 10]), ...fleetOf("copy", [1, 1], { device: "cuda" })];
  assert.equal(verdicts(fleet), "ok ok ok ok ok");
});

test("judgeChecks() passes what is above its floor, however fast the others are", () => {
  assert.equal(verdicts(fleetOf("disk", [3_000, 3_000, 250])), "ok ok ok");
  assert.equal(verdicts(fleetOf("disk", [3_000, 3_000, 150])), "ok ok slow");
});

test("judgeChecks() measures a clock by its distance to the median, less what the exchange leaves open", () => {
  assert.equal(verdicts(fleetOf("clock", [0, 3, -700])), "ok ok slow");
  // The controller's own clock is off: all nodes seem to be.
  assert.equal(verdicts(fleetOf("clock", [5_000, 5_010, 4_990])), "ok ok ok");
  const fleet = fleetOf("clock", [0, 3, -700]);
  fleet[2]!.readings = [reading("clock", -700, { uncertainty: 250 })];
  assert.equal(verdicts(fleet), "ok ok ok");
});

test("judgeChecks() keeps clocks that were read over seconds out of the median: a controller that is held up asks many at once", () => {
  const fleet = fleetOf("clock", [0, 3_020, 3_010, 3_015, 1, -2]);
  for (const at of [1, 2, 3])
    fleet[at]!.readings = [reading("clock", fleet[at]!.readings[0]!.value, { uncertainty: 3_000 })];
  assert.equal(verdicts(fleet), "ok ok ok ok ok ok");
});

test("judgeChecks() fails what is not ok with nobody to compare with, and keeps it out of the median", () => {
  const fleet = fleetOf("copy", [10, 10, 10, 0]);
  fleet[3]!.readings = [reading("copy", 0, { ok: false, detail: "its process was ended by SIGSEGV" })];
  assert.deepEqual(judge(fleet[0]!, fleet)[0]!.median, 10);
  const judged = judge(fleet[3]!, [fleet[3]!]);
  assert.equal(badText(judged), "copy failed: its process was ended by SIGSEGV");
});

test("judgeChecks() has no opinion on how much memory was looked at", () => {
  assert.ok(!COMPARISONS.has("memory"));
  assert.equal(verdicts(fleetOf("memory", [100, 100, 1])), "ok ok ok");
});

test("badText() names value, unit and what it was compared with; null for a good node", () => {
  const fleet = fleetOf("copy", [10, 10, 10, 1.234]);
  const slow = judge(fleet[3]!, fleet);
  assert.equal(badText(slow), "copy is 1.23 GB/s, below 0.5 of the fleet's median of 10");
  assert.equal(badText(judge(fleet[0]!, fleet)), null);
});

test("judgeChecks() compares devices of one name across machines, whatever else their nodes have, and names the slow one", () => {
  const device = (index: number, name: string, value: number) =>
    reading("device_copy", value, { device: { index, name } });
  const node = (n: number, ...readings: CheckReading[]): FleetNode => ({
    nodeId: `n${n}`,
    machine: `10.0.0.${n}`,
    device: "cuda",
    readings,
  });
  const fleet = [
    node(0, device(0, "H200", 1_000), device(1, "L4", 100)),
    node(1, device(0, "H200", 1_100)),
    node(2, device(0, "H200", 1_050), device(1, "H200", 400)),
    node(3, device(0, "L4", 110)),
  ];
  const judged = fleet.map((one) => judge(one, fleet));
  assert.deepEqual(
    judged.map((readings) => readings.map(({ verdict, median }) => `${verdict} ${median}`)),
    [["ok 1050", "ok null"], ["ok 1050"], ["ok 1050", "slow 1050"], ["ok null"]],
  );
  assert.equal(
    badText(judged[2]!),
    "device_copy of device 1 (H200) is 400 GB/s, below 0.6 of the fleet's median of 1050",
  );
});
