import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { endProcesses, isAlive, ProcessRecords, startTicks } from "../../../worker/agent/process_records.js";

test("ProcessRecords lets a successor end what still lives, and spares a pid that was given away", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-records-"));
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  try {
    const records = new ProcessRecords(folder);
    records.add(child.pid!);
    // This very process under another start time: what a reused pid looks like.
    writeFileSync(
      path.join(folder, `${process.pid}.json`),
      JSON.stringify({ pid: process.pid, startTicks: "1" }),
    );
    writeFileSync(path.join(folder, "999.json"), '{"pid":');
    const successor = new ProcessRecords(folder);
    const found = successor.all();
    assert.deepEqual(found.map((record) => record.pid).sort(), [process.pid, child.pid].sort());
    assert.equal(found.filter(isAlive).length, 1);
    const exited = once(child, "exit");
    assert.deepEqual(await endProcesses(found, 5_000), []);
    assert.equal((await exited)[1], "SIGKILL");
    assert.equal(startTicks(child.pid!), null);
  } finally {
    child.kill("SIGKILL");
    rmSync(folder, { recursive: true });
  }
});
