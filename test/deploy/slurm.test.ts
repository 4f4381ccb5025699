import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";

test("goku.sbatch: requeued on another first node, the controller's certificate names that node, of the same CA", (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-sbatch-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const bin = path.join(folder, "bin");
  mkdirSync(bin);
  const program = (name: string, text: string) => {
    writeFileSync(path.join(bin, name), `#!/bin/sh\n${text}\n`);
    chmodSync(path.join(bin, name), 0o755);
  };
  // Slurm that knows the nodes and starts nothing, so that the script ends where it waits for its controller.
  program("scontrol", 'echo "$3" | tr , "\\n"');
  program("srun", "exit 1");
  const run = path.join(folder, "run");
  const start = (nodes: string) => {
    const done = spawnSync("bash", ["deploy/slurm/goku.sbatch", "job.yaml"], {
      encoding: "utf8",
      env: {
        ...process.env,
        PATH: `${bin}:${process.env.PATH}`,
        ...{ SLURM_JOB_ID: "7", SLURM_JOB_NODELIST: nodes, GOKU_RUN: run },
        GOKUCTL: `${process.execPath} ${path.resolve("dist/programs/gokuctl.js")}`,
      },
    });
    assert.equal(done.status, 21, done.stderr);
    const read = (name: string) => new X509Certificate(readFileSync(path.join(run, "certs", name)));
    return { controller: read("controller.crt"), ca: read("ca.crt"), agent: read("agent.crt") };
  };
  const first = start("n1,n2");
  assert.ok(first.controller.checkHost("n1"));
  const second = start("n2,n3");
  assert.ok(second.controller.checkHost("n2"), "agents find the controller under the new node's name");
  assert.equal(second.ca.fingerprint256, first.ca.fingerprint256);
  assert.equal(second.agent.fingerprint256, first.agent.fingerprint256);
  assert.ok(second.controller.verify(second.ca.publicKey));
});
