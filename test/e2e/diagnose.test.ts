import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { LocalCluster } from "../../cli/local_cluster.js";
import { entryPoint } from "../../job/entry_points.js";
import { gokuctl } from "../support/gokuctl.js";

/** `gokuctl diagnose` as a person runs it, against real agents. */
const scratch = mkdtempSync(path.join(tmpdir(), "goku-diagnose-"));
const stateDir = mkdtempSync("/dev/shm/goku-diagnose-");
const CHECKS = ["memory", "matrix", "copy", "disk", "loopback", "clock", "collective"];
const cluster = await LocalCluster.start({ nodes: 3, slotsPerNode: 1, folder: scratch, stateDir });
after(async () => {
  await cluster.stop();
  rmSync(scratch, { recursive: true, force: true });
  rmSync(stateDir, { recursive: true, force: true });
});

const run = (...args: string[]) => gokuctl(["--controller", cluster.controller, ...args]);

interface NodeJson {
  node_id: string;
  self_check: string;
  quarantined: boolean;
}

/** Waits until nodes of these names have been examined. */
async function examined(count: number): Promise<NodeJson[]> {
  for (;;) {
    const { nodes } = JSON.parse((await run("nodes", "--json")).stdout) as { nodes: NodeJson[] };
    const done = nodes.filter(({ self_check }) => self_check === "passed" || self_check === "failed");
    if (done.length >= count) return nodes;
  }
}

/** An agent of its own whose arithmetic is broken. */
function brokenAgent(node: string): ChildProcess {
  const main = entryPoint("gokuctl");
  const args = ["agent", "--controller", cluster.controller, "--node", node, "--state-dir", stateDir];
  return spawn(process.execPath, [main, ...args, "--log-dir", scratch, "--grace", "0"], {
    stdio: "ignore",
    env: { ...process.env, GOKU_FAILPOINTS: "selfcheck.matrix:flip" },
  });
}

test("gokuctl diagnose: three good nodes pass every check, in a table and as JSON", async () => {
  await examined(3);
  const shown = await run("diagnose");
  assert.equal(shown.code, 0, shown.stdout + shown.stderr);
  for (const name of CHECKS) assert.match(shown.stdout, new RegExp(`\\b${name.toUpperCase()}\\b`));
  for (const node of ["node-a", "node-b", "node-c"])
    assert.match(shown.stdout, new RegExp(`^${node} +passed `, "m"));
  const told = await run("diagnose", "node-a", "--json");
  const { nodes, done } = JSON.parse(told.stdout);
  assert.deepEqual([told.code, done, nodes.length, nodes[0].verdict], [0, true, 1, "passed"]);
});

test("gokuctl diagnose: a node whose arithmetic is broken is named, quarantined, and ends it with 32", async () => {
  const agent = brokenAgent("node-x");
  try {
    const nodes = await examined(4);
    assert.deepEqual(
      nodes.map(({ node_id, self_check, quarantined }) => `${node_id} ${self_check} ${quarantined}`),
      ["node-a passed false", "node-b passed false", "node-c passed false", "node-x failed true"],
    );
    const { code, stdout } = await run("diagnose");
    assert.equal(code, 32, stdout);
    assert.match(stdout, /^node-x +failed .* FAILED /m);
    assert.match(stdout, /^node-x failed: matrix failed: round 1, fp32: block \d+ of \d+/m);
    assert.match(stdout, /^node-a +passed /m);
    const listed = (await run("nodes")).stdout;
    assert.match(listed, /^node-x +connected, quarantined .* failed: matrix /m);
    assert.match(listed, /gokuctl nodes release node-x, or when it passes its self-checks after \d{4}-/);
    assert.equal((await run("diagnose", "node-z")).code, 3);
  } finally {
    agent.kill("SIGTERM");
    await once(agent, "exit");
  }
});

test("gokuctl diagnose: with no node to examine it says so and ends with 3", async () => {
  const folder = mkdtempSync(path.join(scratch, "empty-"));
  const empty = await LocalCluster.start({ nodes: 0, slotsPerNode: 1, folder, stateDir });
  try {
    const { code, stderr } = await gokuctl(["--controller", empty.controller, "diagnose"]);
    assert.equal(code, 3, stderr);
    assert.match(stderr, /Cannot diagnose nodes: no node has come, want one that is connected and free/);
  } finally {
    await empty.stop();
  }
});
