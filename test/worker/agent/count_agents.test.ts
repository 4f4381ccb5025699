import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { countAgents } from "../../../worker/agent/count_agents.js";
import { AGENT_LOCK, lockNode } from "../../../worker/agent/lock_node.js";

test("countAgents() counts living agents beside this one, not those that left a folder behind", (t) => {
  const stateDir = mkdtempSync(path.join(tmpdir(), "goku-agents-"));
  t.after(() => rmSync(stateDir, { recursive: true }));
  assert.equal(countAgents(stateDir), 1);
  lockNode(path.join(stateDir, "node-a"), "start the agent");
  lockNode(path.join(stateDir, "node-b"), "start the agent");
  mkdirSync(path.join(stateDir, "node-c"));
  const dead = JSON.stringify({ pid: process.pid, startTicks: "1" });
  writeFileSync(path.join(stateDir, "node-c", AGENT_LOCK), dead);
  mkdirSync(path.join(stateDir, "no-agent"));
  assert.equal(countAgents(stateDir), 2);
});
