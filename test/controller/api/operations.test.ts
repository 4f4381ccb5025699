import assert from "node:assert/strict";
import { test } from "node:test";
import { auditText } from "../../../controller/api/audit.js";
import type { ControllerApi } from "../../../controller/api/controller_api.js";
import { Operations } from "../../../controller/api/operations.js";
import { type AuditEntry, JobStatus } from "../../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../../job/errors.js";

const caller = { principal: { name: "alice", via: "token", role: "operate" }, address: "10.0.0.9" } as const;

/** Of one job, shapes, whose id is 5e1f; nothing else is asked for. */
const api = {
  submitJob: async () => {
    throw new GokuError("JOB_INVALID", "Cannot read it");
  },
  getJob: (name: string) => {
    if (!["shapes", "5e1f", ""].includes(name)) throw new GokuError("NOT_FOUND", "none");
    return { status: JobStatus.fromPartial({ name: "shapes" }) };
  },
  stopJob: async (name: string) => {
    if (name !== "shapes" && name !== "") throw new GokuError("NOT_FOUND", "none");
    return JobStatus.fromPartial({ name: "shapes" });
  },
  saveJob: async () => {},
  releaseNode: async () => {},
} as unknown as ControllerApi;

test("Operations: each is told with who asked, what about, and how it ended, also when it was refused", async () => {
  const told: { entry: AuditEntry; job: string }[] = [];
  const operations = new Operations(api, (entry, job) => told.push({ entry, job }));
  assert.equal((await operations.stopJob(caller, "", 30)).name, "shapes");
  await assert.rejects(operations.stopJob(caller, "nothing", null), { code: "NOT_FOUND" });
  await assert.rejects(operations.submitJob(caller, { name: "new" }, null), { code: "JOB_INVALID" });
  await assert.rejects(operations.submitJob(caller, null, null), { code: "JOB_INVALID" });
  for (const grace of [-1, 0.5, 86_401, Number.NaN])
    await assert.rejects(operations.stopJob(caller, "shapes", grace), {
      code: "ARGUMENT_INVALID",
      message: `Cannot stop job shapes: found a grace of ${grace} s, want whole seconds from 0 to 86400`,
    });
  await operations.saveJob(caller, "shapes");
  await operations.saveJob(caller, "5e1f");
  await operations.releaseNode(caller, "node-b");
  assert.deepEqual(
    told.map(({ entry, job }) => [auditText(entry), job]),
    [
      ["alice (token, 10.0.0.9): stop a job, shapes: DONE", "shapes"],
      ["alice (token, 10.0.0.9): stop a job, nothing: NOT_FOUND", "nothing"],
      ["alice (token, 10.0.0.9): submit a job, new: JOB_INVALID", "new"],
      ["alice (token, 10.0.0.9): submit a job: JOB_INVALID", ""],
      ...Array.from({ length: 4 }, () => [
        "alice (token, 10.0.0.9): stop a job, shapes: ARGUMENT_INVALID",
        "shapes",
      ]),
      ["alice (token, 10.0.0.9): save a job, shapes: DONE", "shapes"],
      ["alice (token, 10.0.0.9): save a job, shapes: DONE", "shapes"],
      ["alice (token, 10.0.0.9): release a node, node-b: DONE", ""],
    ],
  );
});

test("Operations: what a caller calls a thing cannot write to a terminal, or fill the log", async () => {
  const told: AuditEntry[] = [];
  const operations = new Operations(api, (entry) => told.push(entry));
  await operations.releaseNode(caller, `\u001b[2J\n${"x".repeat(10_000)}`);
  assert.match(told[0]!.target, /^\?\[2J\?x+$/);
  assert.equal(told[0]!.target.length, 128);
});
