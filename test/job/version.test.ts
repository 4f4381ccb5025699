import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { codeVersion, productRevision, productVersion, REVISION, REVISION_FILE } from "../../job/version.js";

const folder = mkdtempSync(path.join(tmpdir(), "goku-version-"));
after(() => rmSync(folder, { recursive: true }));

test("productRevision() is what the build has written; null where it has not, or nothing that is a revision", () => {
  assert.equal(productRevision(folder), null);
  const file = path.join(folder, REVISION_FILE);
  mkdirSync(path.dirname(file), { recursive: true });
  const revision = "0123456789abcdef0123456789abcdef01234567";
  for (const [text, found] of [
    [`${revision}\n`, revision],
    [`${revision}.dirty\n`, `${revision}.dirty`],
    ["unknown\n", null],
    ["", null],
  ] as const) {
    writeFileSync(file, text);
    assert.equal(productRevision(folder), found);
  }
});

test("codeVersion() adds the revision to the version as semantic versions do", () => {
  assert.equal(codeVersion("0.1.0", null), "0.1.0");
  const revision = "f".repeat(40);
  assert.equal(codeVersion("0.1.0", `${revision}.dirty`), `0.1.0+git.${revision}.dirty`);
});

test("what is built here names a revision or none, and a version", () => {
  assert.match(productVersion(), /^\d+\.\d+\.\d+/);
  const revision = productRevision();
  if (revision !== null) assert.match(revision, REVISION);
});
