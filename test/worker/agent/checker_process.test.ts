import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { CheckerProcess } from "../../../worker/agent/checker_process.js";
import { ProcessRecords } from "../../../worker/agent/process_records.js";

test("the process that examines a device counts devices as ranks do, and sees that one alone", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-checker-process-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  delete process.env.CUDA_VISIBLE_DEVICES;
  delete process.env.CUDA_DEVICE_ORDER;
  const checker = new CheckerProcess({
    records: new ProcessRecords(path.join(folder, "processes")),
    device: 1,
  });
  const environment = readFileSync(`/proc/${checker.pid}/environ`, "utf8").split("\0");
  checker.kill("the test is over");
  await checker.gone;
  assert.deepEqual(environment.filter((entry) => entry.startsWith("CUDA_")).sort(), [
    "CUDA_DEVICE_ORDER=PCI_BUS_ID",
    "CUDA_VISIBLE_DEVICES=1",
  ]);
});
