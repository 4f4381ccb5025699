import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { type OpenedStore, openStore, type StoreSettings } from "../../../controller/shell/open_store.js";
import { Certificates } from "../../support/certificates.js";
import { ETCD_SKIP, EtcdServers } from "../../support/etcd_servers.js";
import { withUsers } from "../../support/etcd_users.js";
import { until } from "../../support/until.js";

/** Files of a store in etcd itself that are replaced while it is in use. */
const LIMIT = { timeout: 120_000, skip: ETCD_SKIP };
/** Files are looked at so often. */
const LOOK_MS = 10_000;

function scratch(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-open-store-"));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

async function open(t: TestContext, settings: StoreSettings) {
  const told: string[] = [];
  const expiries: number[] = [];
  const opened = await openStore(settings, {
    onReplaced: () => told.push("replaced"),
    onFailed: (error) => told.push(error.message),
    onCertificate: (expiryMs) => expiries.push(expiryMs),
  });
  t.after(() => opened.close());
  return { opened, told, expiries };
}

/** A busy machine may be late; whatever else keeps a write from being applied is not taken. */
const works = ({ store }: OpenedStore) =>
  until(async () => {
    const put = { kind: "put", key: "k", value: new Uint8Array(1) } as const;
    const outcome = await store.transact([], [put]);
    if (outcome.kind === "unknown") assert.match(outcome.reason, /deadline/i);
    return outcome.kind === "applied";
  });

/** Reading fails, and says why. */
const fails = ({ store }: OpenedStore, why: RegExp) =>
  until(async () => {
    const message = await store.get("k").then(
      () => assert.fail("it was read"),
      (error: Error) => error.message,
    );
    if (!/deadline/i.test(message)) assert.match(message, why);
    return why.test(message);
  });

test(
  "openStore(): a password that is replaced in its file first, then in etcd, is missed by no call",
  LIMIT,
  async (t) => {
    const passwordFile = path.join(scratch(t), "password");
    writeFileSync(passwordFile, "goku-password\n");
    const servers = await EtcdServers.start();
    t.after(() => servers.stop());
    const root = await withUsers(servers);
    const { opened, told } = await open(t, {
      kind: "etcd",
      endpoints: servers.endpoints,
      prefix: "goku/",
      files: { tls: null, login: { user: "goku", passwordFile } },
    });
    await works(opened);
    writeFileSync(passwordFile, "another-password\n");
    await works(opened);
    await root.auth.userChangePassword({ name: "goku", password: "another-password" });
    await works(opened); // its token has ended with the old password
    assert.deepEqual(told, ["replaced"]);
    writeFileSync(passwordFile, "\n");
    await root.auth.userChangePassword({ name: "goku", password: "third-password" });
    await fails(opened, /authentication failed/);
    assert.deepEqual(told.slice(1), [
      `Cannot read store password file ${passwordFile}: it is empty, want the password of goku`,
    ]);
    writeFileSync(passwordFile, "third-password");
    await works(opened);
  },
);

test(
  "openStore(): certificates that are replaced serve the next connection; half of a pair leaves the old in use",
  LIMIT,
  async (t) => {
    t.mock.timers.enable({ apis: ["setInterval"] });
    const folder = scratch(t);
    const own = new Certificates(folder);
    const stranger = new Certificates(folder, "stranger");
    const [server, first, second] = ["server", "first", "second"].map((name) => own.sign(name));
    const other = stranger.sign("other");
    const serverArgs = ["--cert-file", server!.certFile, "--key-file", server!.keyFile];
    const servers = await EtcdServers.start({
      tls: {
        args: [...serverArgs, "--client-cert-auth", "--trusted-ca-file", own.ca.certFile],
        settings: { ca: own.ca.cert, client: first! },
      },
    });
    t.after(() => servers.stop());
    const client = { cert: path.join(folder, "in-use.pem"), key: path.join(folder, "in-use.key") };
    const install = (kind: "cert" | "key", { certFile, keyFile }: typeof other) =>
      copyFileSync(kind === "cert" ? certFile : keyFile, client[kind]);
    const installPair = (pair: typeof other) => {
      install("cert", pair);
      install("key", pair);
      t.mock.timers.tick(LOOK_MS);
    };
    for (const kind of ["cert", "key"] as const) install(kind, first!);
    const { opened, told, expiries } = await open(t, {
      kind: "etcd",
      endpoints: servers.endpoints,
      prefix: "",
      files: { tls: { ca: own.ca.certFile, client }, login: null },
    });
    const ends = (of: typeof other) => Date.parse(new X509Certificate(readFileSync(of.certFile)).validTo);
    assert.deepEqual(expiries, [ends(first!)]);
    await works(opened);
    install("cert", other);
    t.mock.timers.tick(LOOK_MS);
    await works(opened);
    assert.match(
      told.join(),
      /^Cannot use certificate .*in-use\.pem with key .*in-use\.key: .*want PEM files of one pair$/,
    );
    installPair(other);
    await fails(opened, /certificate|alert|ECONNRESET|closed/); // etcd does not trust its issuer
    installPair(second!);
    await works(opened);
    assert.deepEqual(told.slice(1), ["replaced", "replaced"]);
    assert.deepEqual(expiries, [first!, other, second!].map(ends));
  },
);

test("openStore(): a file that is wrong from the start is named", async (t) => {
  const folder = scratch(t);
  const file = (name: string, text: string) => {
    writeFileSync(path.join(folder, name), text);
    return path.join(folder, name);
  };
  const own = new Certificates(folder);
  const place = { kind: "etcd", endpoints: ["127.0.0.1:1"], prefix: "" } as const;
  const told = { onReplaced: assert.fail, onFailed: assert.fail, onCertificate: () => assert.fail() };
  for (const [files, message] of [
    [{ tls: { ca: path.join(folder, "none"), client: null }, login: null }, /CA certificate .*none: ENOENT/],
    [
      { tls: { ca: file("text", "x"), client: null }, login: null },
      /CA certificate .*text: .*want a PEM file/,
    ],
    [
      {
        tls: { ca: own.ca.certFile, client: { cert: own.ca.certFile, key: file("key", "secret") } },
        login: null,
      },
      /^(?!.*secret).*Cannot use certificate .*want PEM files of one pair/,
    ],
    [
      { tls: null, login: { user: "goku", passwordFile: file("empty", "\n") } },
      /empty: it is empty, want the password/,
    ],
  ] as const)
    await assert.rejects(openStore({ ...place, files }, told), { code: "ARGUMENT_INVALID", message });
});
