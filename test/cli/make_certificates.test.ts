import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { makeCertificates } from "../../cli/make_certificates.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-make-certificates-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const PAIRS = ["agent", "ca", "controller", "operate", "read"].flatMap((name) => [
  `${name}.crt`,
  `${name}.key`,
]);

/** Runs `body` with an openssl that writes each file it is told to with -keyout, and then fails. */
function withBrokenOpenssl(body: () => void): void {
  const { PATH } = process.env;
  const script = '#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -keyout ] && : > "$2"; shift; done\nexit 1\n';
  writeFileSync(path.join(scratch, "openssl"), script, { mode: 0o755 });
  process.env.PATH = `${scratch}:${PATH}`;
  try {
    body();
  } finally {
    process.env.PATH = PATH;
  }
}

test("makeCertificates() leaves nothing of a pair that could not be made, and makes it the next time", () => {
  const folder = path.join(scratch, "aborted");
  withBrokenOpenssl(() => assert.throws(() => makeCertificates(folder, ["a"], 1), /openssl req/));
  assert.deepEqual(readdirSync(folder), []);
  assert.equal(makeCertificates(folder, ["a"], 1).length, PAIRS.length);
  assert.deepEqual(readdirSync(folder).sort(), PAIRS);
  rmSync(path.join(folder, "agent.crt"));
  const key = readFileSync(path.join(folder, "agent.key"));
  withBrokenOpenssl(() => assert.throws(() => makeCertificates(folder, ["a"], 1)));
  assert.deepEqual(readFileSync(path.join(folder, "agent.key")), key);
});

test("makeCertificates() says what to do about half a CA, and touches nothing", () => {
  const folder = path.join(scratch, "half");
  makeCertificates(folder, ["a"], 1);
  for (const [gone, left] of [
    ["ca.crt", "ca.key"],
    ["ca.key", "ca.crt"],
  ] as const) {
    const text = readFileSync(path.join(folder, gone));
    rmSync(path.join(folder, gone));
    assert.throws(() => makeCertificates(folder, ["a"], 1), {
      code: "ARGUMENT_INVALID",
      message: new RegExp(
        `${left} is there without its .* ${gone}; bring that back, or, for a new CA, remove ${left}`,
      ),
    });
    assert.deepEqual(
      readdirSync(folder).sort(),
      PAIRS.filter((name) => name !== gone),
    );
    writeFileSync(path.join(folder, gone), text);
  }
  assert.deepEqual(makeCertificates(folder, ["a"], 1), []);
});
