import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { connect } from "node:tls";
import * as grpc from "@grpc/grpc-js";
import { pino } from "pino";
import { ServerSecurity } from "../../../controller/shell/server_security.js";
import { contextOf } from "../../../security/server_credentials.js";
import { createToken } from "../../../security/tokens.js";
import { makeCredentials } from "../../support/credentials.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-server-security-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const first = makeCredentials(path.join(scratch, "first"));
const second = makeCredentials(path.join(scratch, "second"));
const quiet = pino({ level: "silent" });
const tlsOf = ({ file }: typeof first) => ({
  cert: file("controller.crt"),
  key: file("controller.key"),
  ca: file("ca.crt"),
});

/** Serial number of the certificate that a server shows. */
async function shown(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({
      port,
      host: "127.0.0.1",
      rejectUnauthorized: false,
      ALPNProtocols: ["h2", "http/1.1"],
    });
    socket.on("error", reject).on("secureConnect", () => {
      resolve(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
  });
}

test("ServerSecurity: a certificate that is replaced is shown to the next connection, by gRPC and by REST; half of a pair is not used", async (t) => {
  const used = makeCredentials(path.join(scratch, "used"));
  const tls = tlsOf(used);
  const expiries: number[] = [];
  const security = new ServerSecurity({ host: "127.0.0.1", tls, tokensFile: null }, quiet, (ms) =>
    expiries.push(ms),
  );
  const server = new grpc.Server();
  const rest = createServer(contextOf(security.tls!));
  security.follow(rest);
  t.after(() => {
    security.close();
    server.forceShutdown();
    rest.close();
  });
  const ports = await Promise.all([
    new Promise<number>((resolve) =>
      server.bindAsync("127.0.0.1:0", security.grpcCredentials(), (_, port) => resolve(port)),
    ),
    new Promise<number>((resolve) =>
      rest.listen(0, "127.0.0.1", () => resolve((rest.address() as AddressInfo).port)),
    ),
  ]);
  const serial = (of: typeof first) => new X509Certificate(readFileSync(tlsOf(of).cert)).serialNumber;
  const before = serial(used);
  for (const port of ports) assert.equal(await shown(port), before);
  copyFileSync(tlsOf(first).cert, tls.cert);
  security.look();
  for (const port of ports)
    assert.equal(await shown(port), before, "the key of the new one is not there yet");
  copyFileSync(tlsOf(first).key, tls.key);
  security.look();
  for (const port of ports) assert.equal(await shown(port), serial(first));
  const expiry = (of: typeof first) => Date.parse(new X509Certificate(readFileSync(tlsOf(of).cert)).validTo);
  assert.equal(expiries.length, 2);
  assert.equal(expiries[1], expiry(first));
});

test("ServerSecurity: tokens are read again where their file changes; a broken file changes nothing", (t) => {
  const file = path.join(scratch, "tokens");
  const [one, two] = [createToken("one", "read"), createToken("two", "operate")];
  writeFileSync(file, one.line);
  const security = new ServerSecurity({ host: "127.0.0.1", tls: null, tokensFile: file }, quiet, () => {});
  t.after(() => security.close());
  assert.equal(security.tokens!.find(one.token)?.name, "one");
  writeFileSync(file, `${one.line}\nbroken`);
  security.look();
  assert.equal(security.tokens!.find(one.token)?.name, "one");
  writeFileSync(file, `# one has left\n${two.line}\n`);
  security.look();
  assert.equal(security.tokens!.find(one.token), null);
  assert.equal(security.tokens!.find(two.token)?.role, "operate");
});

test("ServerSecurity: beyond loopback it takes TLS, and tokens or a CA for certificates; what is wrong is said at the start", () => {
  const open = (tls: Parameters<typeof make>[1], tokensFile: string | null) =>
    make("0.0.0.0", tls, tokensFile);
  const make = (
    host: string,
    tls: { cert: string; key: string; ca: string | null } | null,
    tokensFile: string | null,
  ) => new ServerSecurity({ host, tls, tokensFile }, quiet, () => {}).close();
  const { tokensFile } = second;
  assert.throws(() => open(null, tokensFile), /beyond loopback .* has no TLS/);
  assert.throws(() => open({ ...tlsOf(second), ca: null }, null), /has no tokens or client certificates/);
  open({ ...tlsOf(second), ca: null }, tokensFile);
  open(tlsOf(second), null);
  make("127.0.0.1", null, null);
  assert.throws(() => make("127.0.0.1", null, path.join(scratch, "none")), /Cannot read tokens file/);
  assert.throws(() => make("127.0.0.1", { ...tlsOf(second), key: tlsOf(first).key }, null), /one pair/);
});
