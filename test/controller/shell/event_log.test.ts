import assert from "node:assert/strict";
import { test } from "node:test";
import { EventLog } from "../../../controller/shell/event_log.js";
import { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import { AuditEntry } from "../../../gen/goku/v1/controller.pb.js";

test("EventLog: entries of the audit outlive the steps that come by the thousand, up to a limit of their own", () => {
  const log = new EventLog(0);
  const add = (kind: string, number: number) => {
    const audit = kind === "audit" ? { audit: AuditEntry.fromPartial({ who: `${number}` }) } : {};
    log.add({ timeMs: number, job: "", kind, message: "", ...audit });
  };
  const audits = () =>
    log
      .past("", 0n)
      .filter(({ kind }) => kind === "audit")
      .map(({ audit }) => Number(audit!.who));
  for (let i = 0; i < 10; i++) add("audit", i);
  for (let i = 0; i < 50_000; i++) add("step", i);
  assert.deepEqual(audits(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  for (let i = 10; i < 20_000; i++) add("audit", i);
  for (let i = 0; i < 50_000; i++) add("step", i);
  const kept = audits();
  assert.equal(kept.length, 1_000);
  assert.equal(kept.at(-1), 19_999, "the newest");
  const ids = log.past("", 0n).map(({ id }) => id);
  assert.ok(ids.length <= 10_000);
  assert.deepEqual(
    ids,
    [...ids].sort((a, b) => Number(a - b)),
    "in order",
  );
});

test("EventLog: what was decided outlives the steps of a day", () => {
  const log = new EventLog(0);
  const step = StepCompleted.fromPartial({});
  log.add({ timeMs: 0, job: "j", kind: "node", message: "node-a is quarantined" });
  for (let i = 0; i < 100_000; i++) log.add({ timeMs: i, job: "j", kind: "step", message: "", step });
  const kinds = new Set(log.past("j", 0n).map(({ kind }) => kind));
  assert.deepEqual([...kinds], ["node", "step"]);
});
