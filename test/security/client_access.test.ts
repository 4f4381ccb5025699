import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { controllerChannel, NO_ACCESS } from "../../security/client_access.js";
import { makeCredentials } from "../support/credentials.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-access-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const { file, tokenFile, tokens } = makeCredentials(path.join(scratch, "certs"));

test("controllerChannel(): a token goes in plain text over loopback only", () => {
  const access = { ...NO_ACCESS, tokenFile: tokenFile.read };
  assert.equal(controllerChannel(access, "127.0.0.1:7070").options.interceptors?.length, 1);
  assert.throws(
    () => controllerChannel(access, "controller:7070"),
    /without TLS anyone on the way may read it/,
  );
  assert.throws(() => controllerChannel(access, "10.0.0.1:7070"), /--ca or GOKU_CA/);
  const withTls = controllerChannel({ ...access, ca: file("ca.crt") }, "controller:7070");
  assert.equal(withTls.options.interceptors?.length, 1);
  assert.ok(withTls.credentials._isSecure());
});

test("controllerChannel(): files that are missing, wrong or of two pairs are named; what a key or token holds is not", () => {
  const junk = path.join(scratch, "junk");
  writeFileSync(junk, `${tokens.read} and more`);
  const ca = file("ca.crt");
  const cases: [Partial<typeof NO_ACCESS>, RegExp][] = [
    [{ ca: path.join(scratch, "none") }, /Cannot read CA certificate .*none/],
    [{ ca: junk }, /Cannot read CA certificate .*junk.*want a PEM file/],
    [{ tokenFile: junk }, /token file .*junk: it holds more than one word/],
    [{ tokenFile: path.join(scratch, "none") }, /Cannot read token file .*none/],
    [{ ca, cert: file("agent.crt") }, /--cert, --key and --ca belong together/],
    [{ cert: file("agent.crt"), key: file("agent.key") }, /--cert, --key and --ca belong together/],
    [{ ca, cert: file("agent.crt"), key: file("operate.key") }, /want PEM files of one pair/],
    [{ ca, cert: file("agent.crt"), key: junk }, /Cannot use certificate/],
  ];
  for (const [access, wanted] of cases)
    assert.throws(
      () => controllerChannel({ ...NO_ACCESS, ...access }, "127.0.0.1:7070"),
      (error: Error & { code: string }) => {
        assert.match(error.message, wanted);
        assert.equal(error.code, "ARGUMENT_INVALID");
        assert.ok(!error.message.includes(tokens.read.slice(5)));
        return true;
      },
    );
});
