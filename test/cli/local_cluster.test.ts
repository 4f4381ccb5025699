import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ControllerClient } from "../../cli/client.js";
import { LocalCluster } from "../../cli/local_cluster.js";

test("LocalCluster: a person's credentials for another cluster stay out of a local one", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-local-credentials-"));
  const names = ["TLS_CERT", "TLS_KEY", "TLS_CA", "TOKENS", "CA", "CERT", "KEY", "TOKEN_FILE"];
  for (const name of names) process.env[`GOKU_${name}`] = "/nowhere/else";
  t.after(() => {
    for (const name of names) delete process.env[`GOKU_${name}`];
    rmSync(folder, { recursive: true, force: true });
  });
  const cluster = await LocalCluster.start({ nodes: 1, slotsPerNode: 1, folder });
  const client = new ControllerClient(cluster.controller);
  try {
    assert.match(cluster.rest, /^http:/);
    while ((await client.call("listNodes", {})).nodes.length === 0)
      await new Promise((resolve) => setTimeout(resolve, 10));
  } finally {
    client.close();
    await cluster.stop();
  }
});
