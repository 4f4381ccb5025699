import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import type { SelfCheckReport } from "../../../gen/goku/v1/agent.pb.js";
import { CheckedNode, selfCheckCommand } from "../../support/checked_node.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-checker-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
test("a good node passes, and its report is kept for the next controller", async () => {
  const node = new CheckedNode(scratch);
  const message = selfCheckCommand(["memory", "matrix", "copy", "disk", "checkpoint_disk", "loopback"], {
    checkpointUri: `file://${scratch}`,
  });
  node.start(message);
  assert.equal((await node.begun.next()).checkId, message.checkId);
  const report = await node.reports.next();
  assert.deepEqual(
    report.results.map(({ name, ok }) => `${name} ${ok}`),
    ["memory true", "matrix true", "copy true", "disk true", "checkpoint_disk true", "loopback true"],
    JSON.stringify(report.results),
  );
  assert.equal(node.checker.last, report);
  assert.deepEqual(
    readdirSync(node.folder).filter((name) => name.startsWith("selfcheck")),
    [],
  );
});

test("a check that kills its process fails with the signal, and the others are still run", async () => {
  const node = new CheckedNode(scratch);
  node.start(selfCheckCommand(["copy", "memory"]), "selfcheck.copy:kill");
  const { results } = await node.reports.next();
  assert.deepEqual(
    results.map(({ name, ok }) => [name, ok]),
    [
      ["copy", false],
      ["memory", true],
    ],
  );
  assert.match(results[0]!.detail, /^its process ended by SIGKILL: failpoint selfcheck\.copy:kill fires/);
});

test("a check that hangs fails at its deadline, also where its thread is blocked or its process stopped", async () => {
  for (const action of ["stall", "stop"]) {
    const node = new CheckedNode(scratch, { hangMs: 300 });
    node.start(selfCheckCommand(["copy"]), `selfcheck.copy:${action}`);
    const { results } = await node.reports.next();
    assert.equal(results[0]!.ok, false);
    assert.match(results[0]!.detail, /^its process did not end in \d+ ms and was killed$/);
  }
});

test("nothing is examined while ranks work", async () => {
  const node = new CheckedNode(scratch);
  node.busy = "2 of its ranks work";
  node.start(selfCheckCommand(["memory"]));
  const report = await node.reports.next();
  assert.deepEqual([report.busy, report.results], ["2 of its ranks work", []]);
  assert.equal(node.checker.last, undefined);
});

test("ranks that get a place end an examination, and a newer one replaces it", async () => {
  const node = new CheckedNode(scratch);
  const [first, second] = [selfCheckCommand(["memory"], { budgetMs: 600_000 }), selfCheckCommand(["memory"])];
  node.start(first);
  node.checker.cancel("ranks get a place here");
  assert.deepEqual(await node.reports.next(), {
    checkId: first.checkId,
    results: [],
    busy: "ranks get a place here",
  });
  node.start(selfCheckCommand(["memory"], { budgetMs: 600_000 }));
  node.start(second);
  assert.equal((await node.reports.next()).checkId, second.checkId);
});

/** Two nodes sum numbers; returns what each found. With a large budget a round always follows the first. */
async function pair(failpoints = "", budgetMs = 40, secrets = ["s", "s"]): Promise<SelfCheckReport[]> {
  const nodes = [new CheckedNode(scratch), new CheckedNode(scratch)];
  const commands = nodes.map(() => selfCheckCommand(["collective"], { budgetMs }));
  nodes[0]!.start(commands[0]!, failpoints);
  nodes[1]!.start(commands[1]!);
  const members = await Promise.all(
    nodes.map(async ({ begun }, rank) => {
      const { port, pid } = await begun.next();
      return { rank, nodeId: `node-${rank}`, host: "127.0.0.1", port, pid };
    }),
  );
  for (const [i, node] of nodes.entries())
    node.checker.connect({ checkId: commands[i]!.checkId, group: 5n, members, secret: secrets[i]! });
  return await Promise.all(nodes.map(({ reports }) => reports.next()));
}

test("two nodes sum exact numbers over the network and tell the bandwidth", async () => {
  for (const { results } of await pair()) {
    assert.ok(results[0]!.ok, results[0]!.detail);
    assert.equal(results[0]!.name, "collective");
    assert.ok(results[0]!.value > 0);
  }
});

test("a sum with one wrong bit fails with its place, and a member that dies fails the other, too", async () => {
  const [flipped] = await pair("selfcheck.collective:flip");
  assert.match(flipped!.results[0]!.detail, /^with node-0, node-1: sum 1 is .* at place \d+, want /);
  const [killed, other] = await pair("selfcheck.collective:kill", 600_000);
  assert.match(killed!.results[0]!.detail, /ended by SIGKILL/);
  assert.match(other!.results[0]!.detail, /^with node-0, node-1: COMM_/);
});

test("members that were told different secrets join no group, and one that was told none is not blamed", async () => {
  for (const { results } of await pair("", 40, ["s", "t"])) {
    assert.equal(results[0]!.ok, false);
    assert.match(results[0]!.detail, /^with node-0, node-1: COMM_/);
  }
  for (const { results, busy } of await pair("", 40, ["", ""]))
    assert.deepEqual([results, busy], [[], "its controller gave the collective no secret"]);
});
