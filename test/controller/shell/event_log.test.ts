import assert from "node:assert/strict";
import { test } from "node:test";
import { EventLog } from "../../../controller/shell/event_log.js";
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
