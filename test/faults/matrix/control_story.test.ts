import assert from "node:assert/strict";
import { test } from "node:test";
import { type ControlFacts, tellControl } from "./control_story.js";
import type { LogLine } from "./member_logs.js";

function line(member: string, timeMs: number, text: string, reason = ""): LogLine {
  return { member, timeMs, text, reason };
}

/** Struck at 1 s, given back at 10 s. */
function facts(values: Partial<ControlFacts>): ControlFacts {
  return {
    what: "controller",
    struckAtMs: 1_000,
    returnedAtMs: 10_000,
    agentCount: 3,
    lines: [],
    gaps: [],
    electedAtMs: null,
    training: { steps: 40, pauseSeconds: 0.2 },
    quiet: true,
    ...values,
  };
}

test("tellControl() tells of a controller that was killed which agents noticed, and when it led and had them again", () => {
  const lines = [
    line("node-a", 1_100, "no controller", "Connection dropped"),
    line("node-b", 1_400, "no controller", "Connection dropped"),
    line("node-b", 1_600, "no controller", "ECONNREFUSED"),
    line("controller", 11_500, "c0 leads term 2 with 1 living jobs"),
    line("node-a", 12_000, "controller found"),
    line("node-b", 12_500, "controller found"),
  ];
  const { detected, recovered } = tellControl(facts({ lines, gaps: [{ fromMs: 1_200, toMs: 11_700 }] }));
  assert.deepEqual(detected, {
    by: "agents, by their stream: 2 of 3 lost it, the last after 0.4 s (Connection dropped)",
    seconds: 0.1,
  });
  assert.deepEqual(recovered, {
    by: "started again after 9.0 s, leads term 2 1.5 s later; 2 of 3 agents are with it after 11.5 s; nobody answered for 10.5 s; training went on: 40 steps meanwhile, the longest pause 0.2 s",
    seconds: 10.7,
  });
});

test("tellControl() tells of a leader that stands still that the standby noticed by its lease, and when the deposed gave up", () => {
  const lines = [
    line("controller-2", 3_400, "c1 leads term 2 with 1 living jobs"),
    line("controller", 10_100, "leadership lost: its lease has ended"),
  ];
  const { detected, recovered } = tellControl(facts({ what: "leader", lines }));
  assert.equal(detected.by, "the standby, by the lease that ran out: controller-2 leads term 2");
  assert.equal(detected.seconds, 2.4);
  assert.match(recovered.by, /^the deposed one gives up 0\.1 s after it goes on; it answered all the while/);
  assert.equal(recovered.seconds, null);
});

test("tellControl() tells of a lost member of etcd when another led, and whether the controller kept its lease", () => {
  const elected = facts({ what: "etcd", electedAtMs: 2_500 });
  const told = tellControl(elected);
  assert.match(told.detected.by, /^the other members of etcd/);
  assert.equal(told.detected.seconds, 1.5);
  assert.match(told.recovered.by, /^a member of etcd leads after 1\.5 s; the controller kept its lease;/);
  const lines = [
    line("controller", 1_300, "Cannot renew a lease: etcd at 127.0.0.1:1 (ECONNREFUSED)"),
    line("controller", 2_700, "leadership lost: too late"),
    line("controller", 3_000, "c0 leads term 2 with 1 living jobs"),
  ];
  const gaveUp = tellControl({ ...elected, lines });
  assert.match(gaveUp.detected.by, /^the controller: Cannot renew a lease: etcd at 127\.0\.0\.1:1/);
  assert.match(gaveUp.recovered.by, /gave up leading after 1\.7 s, leads again \(term 2\) after 2\.0 s/);
});

test("tellControl() says that nobody noticed where the logs hold nothing, except of clocks, which nobody has to notice", () => {
  for (const what of ["controller", "leader", "etcd"] as const)
    assert.deepEqual(tellControl(facts({ what })).detected, { by: "", seconds: null });
  assert.match(tellControl(facts({ what: "clock" })).detected.by, /^nobody, as it must be/);
});

test("tellControl() says nothing of training that did not go on", () => {
  assert.doesNotMatch(tellControl(facts({ quiet: false })).recovered.by, /training/);
});
