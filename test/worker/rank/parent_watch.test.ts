import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { startTicks } from "../../../worker/agent/process_records.js";

const PROCESS = fileURLToPath(new URL("./parent_watch_process.js", import.meta.url));

test("watchParent() ends a rank whose agent was killed, though its main thread is blocked for ever", async () => {
  const agent = fork(PROCESS, ["agent"], { stdio: "ignore" });
  const [pid] = (await once(agent, "message")) as [number];
  assert.notEqual(startTicks(pid), null, "the rank lives while its agent does");
  agent.kill("SIGKILL");
  await once(agent, "exit");
  // No sleep decides: this ends when the rank has gone, and the test runner's limit catches one that stays.
  while (startTicks(pid) !== null) await new Promise((resolve) => setTimeout(resolve, 10));
});
