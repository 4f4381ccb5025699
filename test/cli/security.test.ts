import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { TokenTable } from "../../security/tokens.js";
import { gokuctl } from "../support/gokuctl.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-security-cli-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

test("token create: the line goes to the tokens file, the token where it is wanted, readable by its owner alone", async () => {
  const out = path.join(scratch, "alice.token");
  const made = await gokuctl(["token", "create", "--name", "alice", "--role", "operate", "--out", out]);
  assert.equal(made.code, 0, made.stderr);
  const token = readFileSync(out, "utf8").trim();
  assert.equal(statSync(out).mode & 0o777, 0o600);
  assert.deepEqual(TokenTable.parse(made.stdout, "stdout").find(token)?.name, "alice");
  assert.ok(!made.stdout.includes(token));
  const again = await gokuctl(["token", "create", "--name", "alice", "--role", "operate", "--out", out]);
  assert.equal(again.code, 4, "another token is not overwritten");
  assert.equal(readFileSync(out, "utf8").trim(), token);
  const shown = await gokuctl(["token", "create", "--name", "ci", "--role", "read", "--json"]);
  const { token: other, line } = JSON.parse(shown.stdout);
  assert.equal(TokenTable.parse(line, "line").find(other)?.role, "read");
  assert.equal((await gokuctl(["token", "create", "--name", "a", "--role", "root"])).code, 2);
});

test("certs init: a CA, and certificates of it for a controller's addresses and for roles; a second time only what is missing", async () => {
  const folder = path.join(scratch, "certs");
  const init = (...args: string[]) => gokuctl(["certs", "init", "--out", folder, ...args]);
  const made = await init("--host", "controller.example", "--host", "10.0.0.5", "--host", "fd00::2");
  assert.equal(made.code, 0, made.stderr);
  const read = (name: string) => new X509Certificate(readFileSync(path.join(folder, name)));
  const ca = read("ca.crt");
  assert.ok(ca.ca);
  for (const name of ["controller", "agent", "operate", "read"]) {
    const certificate = read(`${name}.crt`);
    assert.ok(certificate.checkIssued(ca) && certificate.verify(ca.publicKey), name);
    assert.ok(!certificate.ca, name);
    assert.equal(statSync(path.join(folder, `${name}.key`)).mode & 0o077, 0, name);
  }
  assert.equal(statSync(folder).mode & 0o077, 0);
  const controller = read("controller.crt");
  for (const host of ["controller.example"]) assert.equal(controller.checkHost(host), host);
  for (const address of ["10.0.0.5", "fd00::2"]) assert.ok(controller.checkIP(address), address);
  assert.equal(controller.checkHost("other.example"), undefined);
  assert.match(read("agent.crt").subject, /O=goku:agent/);
  assert.match(read("operate.crt").subject, /O=goku:operate/);
  rmSync(path.join(folder, "agent.crt"));
  const again = await init("--host", "controller.example");
  assert.deepEqual(
    again.stdout
      .trim()
      .split("\n")
      .map((file) => path.basename(file)),
    ["agent.crt", "agent.key"],
  );
  assert.ok(read("agent.crt").checkIssued(ca));
  assert.match((await init()).stderr, /ARGUMENT_INVALID: .*--host/);
  assert.match((await init("--host", "a b")).stderr, /ARGUMENT_INVALID: .*want a host name or an address/);
});
