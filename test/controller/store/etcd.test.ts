import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { EtcdStore } from "../../../controller/store/etcd.js";
import type { EtcdSettings } from "../../../controller/store/etcd_settings.js";
import { Certificates } from "../../support/certificates.js";
import { ETCD_SKIP, EtcdServers, type EtcdServersOptions } from "../../support/etcd_servers.js";
import { withUsers } from "../../support/etcd_users.js";
import { TcpProxy } from "../../support/tcp_proxy.js";
import { until } from "../../support/until.js";

/** What goes wrong between a controller and etcd itself: servers, networks, certificates, users. */
const LIMIT = { timeout: 120_000, skip: ETCD_SKIP };

const put = (key: string, value: string) =>
  ({ kind: "put", key, value: new TextEncoder().encode(value) }) as const;

async function startServers(t: TestContext, options: EtcdServersOptions = {}): Promise<EtcdServers> {
  const servers = await EtcdServers.start(options);
  t.after(() => servers.stop());
  return servers;
}

async function openStore(t: TestContext, settings: EtcdSettings): Promise<EtcdStore> {
  const store = await EtcdStore.open(settings);
  t.after(() => store.close());
  return store;
}

async function startProxy(t: TestContext, endpoint: string): Promise<TcpProxy> {
  const proxy = await TcpProxy.start(endpoint);
  t.after(() => proxy.close());
  return proxy;
}

test("etcd store: where nobody answers, each member and what to do are named", LIMIT, async () => {
  const settings = { endpoints: ["127.0.0.1:1", "127.0.0.1:2"], prefix: "", tls: null, login: null };
  await assert.rejects(EtcdStore.open(settings), {
    code: "STORE_UNAVAILABLE",
    message:
      /^Cannot use the store: etcd at 127\.0\.0\.1:1 \(connect ECONNREFUSED 127\.0\.0\.1:1\), 127\.0\.0\.1:2 \(.*\); see that etcd runs there/,
  });
});

test(
  "etcd store: a write whose answer is lost is unknown, was done once, and is found by a read",
  LIMIT,
  async (t) => {
    const servers = await startServers(t);
    const proxy = await startProxy(t, servers.endpoints[0]!);
    const endpoints = [proxy.endpoint, servers.endpoints[0]!];
    const store = await openStore(t, servers.settings({ endpoints }));
    proxy.holdAnswers(true);
    const outcome = await store.transact([], [put("k", "1")]);
    assert.equal(outcome.kind, "unknown");
    const entry = await store.get("k");
    assert.equal(entry?.createRevision, entry?.modRevision, "not written a second time");
    const { header } = await servers.client(0).kv.range({ key: Buffer.from("k") });
    assert.equal(BigInt(header.revision), entry?.modRevision);
  },
);

test(
  "etcd store: once etcd is well again, so is the first call, however many have failed",
  LIMIT,
  async (t) => {
    const servers = await startServers(t);
    const store = await openStore(t, servers.settings());
    await store.transact([], [put("k", "1")]);
    await servers.kill(0);
    for (let i = 0; i < 20; i++) {
      assert.equal((await store.transact([], [put("k", "2")])).kind, "unknown");
      await assert.rejects(store.get("k"), { code: "STORE_UNAVAILABLE" });
    }
    servers.run(0);
    await servers.ready();
    assert.equal((await store.get("k"))?.value.length, 1);
    assert.equal((await store.transact([], [put("k", "3")])).kind, "applied");
  },
);

test("etcd store: a member that dies or hangs takes one write with it at most", LIMIT, async (t) => {
  const servers = await startServers(t, { members: 3 });
  const leader = await servers.leader();
  const follower = (leader + 1) % 3;
  const other = (leader + 2) % 3;
  // Calls go to the follower first.
  const endpoints = [follower, leader, other].map((i) => servers.endpoints[i]!);
  const store = await openStore(t, servers.settings({ endpoints }));
  process.kill(servers.pid(follower), "SIGSTOP");
  assert.equal((await store.transact([], [put("k", "1")])).kind, "unknown");
  assert.equal((await store.transact([], [put("k", "2")])).kind, "applied");
  assert.equal(await store.leaseRenew(await store.leaseGrant(2_000)), true);
  process.kill(servers.pid(follower), "SIGCONT");
  await servers.kill(leader);
  await until(async () => (await store.transact([], [put("k", "3")])).kind === "applied");
  assert.equal(new TextDecoder().decode((await store.get("k"))?.value), "3");
});

test(
  "etcd store: a member without a leader says so instead of telling what it last knew",
  LIMIT,
  async (t) => {
    const servers = await startServers(t, { members: 3 });
    const store = await openStore(t, servers.settings());
    const lease = await store.leaseGrant(60_000);
    await store.transact([], [put("k", "1")]);
    await servers.kill(0);
    await servers.kill(1);
    await until(async () => {
      const said = await store.get("k").then(String, (error: Error) => error.message);
      return /no leader/.test(said);
    });
    await until(async () => {
      const said = await store.leaseRenew(lease).then(String, (error: Error) => error.message);
      return /no leader/.test(said);
    });
    servers.run(0);
    await servers.ready(0);
    await until(async () => (await store.transact([], [put("k", "2")])).kind === "applied");
    assert.equal(await store.leaseRenew(lease), true, "its lease has outlived that");
  },
);

test("etcd store: two clusters share one etcd and see nothing of each other", LIMIT, async (t) => {
  const servers = await startServers(t);
  const [a, b] = [
    await openStore(t, servers.settings({ prefix: "a/" })),
    await openStore(t, servers.settings({ prefix: "b/" })),
  ];
  await a.transact([], [put("goku/leader", "1")]);
  assert.equal(await b.get("goku/leader"), null);
  assert.deepEqual(await b.list(""), []);
  assert.deepEqual(
    (await a.list("")).map(({ key }) => key),
    ["goku/leader"],
  );
  const { kvs } = await servers.client(0).kv.range({ key: Buffer.from("a/goku/leader") });
  assert.equal(kvs.length, 1);
});

test(
  "etcd store: TLS, both ways; a certificate that is missing or of another authority is refused",
  LIMIT,
  async (t) => {
    const folder = mkdtempSync(path.join(tmpdir(), "goku-certificates-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const own = new Certificates(folder);
    const [server, client] = [own.sign("server"), own.sign("client")];
    const other = new Certificates(folder, "other-ca");
    const settings = { ca: own.ca.cert, client };
    const args = ["--cert-file", server.certFile, "--key-file", server.keyFile];
    const demand = ["--client-cert-auth", "--trusted-ca-file", own.ca.certFile];
    const servers = await startServers(t, { tls: { args: [...args, ...demand], settings } });
    const store = await openStore(t, servers.settings());
    await store.transact([], [put("k", "1")]);
    const seen: string[] = [];
    await store.watch("k", (events) => seen.push(...events.map(({ key }) => key)), assert.fail);
    await store.transact([], [put("k2", "1")]);
    await until(() => seen.length === 2);
    for (const [tls, why] of [
      [{ ca: other.ca.cert, client }, /unable to get local issuer|unable to verify|self.signed/],
      [{ ca: own.ca.cert, client: null }, /.*/],
      [null, /.*/],
    ] as const)
      await assert.rejects(
        EtcdStore.open(servers.settings({ tls })),
        (error: Error & { code: string }) => error.code === "STORE_UNAVAILABLE" && why.test(error.message),
      );
  },
);

test("etcd store: a user; a wrong password or none is refused and not repeated", LIMIT, async (t) => {
  const servers = await startServers(t);
  await withUsers(servers);
  const login = { user: "goku", password: "goku-password" };
  const store = await openStore(t, servers.settings({ prefix: "goku/", login }));
  const seen: string[] = [];
  await store.watch("", (events) => seen.push(...events.map(({ key }) => key)), assert.fail);
  assert.equal((await store.transact([], [put("k", "1")])).kind, "applied");
  // Tokens are gone with a member that is started again: they are asked for anew, by all kinds of calls.
  await servers.kill(0);
  servers.run(0);
  await servers.ready();
  assert.equal((await store.get("k"))?.key, "k");
  assert.equal((await store.transact([], [put("l", "1")])).kind, "applied");
  assert.equal(await store.leaseRenew(await store.leaseGrant(2_000)), true);
  await until(() => seen.length === 2);
  const wrong = { user: "goku", password: "wrong-password" };
  await assert.rejects(
    EtcdStore.open(servers.settings({ prefix: "goku/", login: wrong })),
    (error: Error) => /authentication failed/.test(error.message) && !/wrong-password/.test(error.message),
  );
  await assert.rejects(EtcdStore.open(servers.settings({ prefix: "goku/" })), {
    code: "STORE_UNAVAILABLE",
    message: /user name is empty\); give --store-user/,
  });
  await assert.rejects(EtcdStore.open(servers.settings({ prefix: "elsewhere/", login })), {
    code: "STORE_UNAVAILABLE",
    message: /permission denied/,
  });
});
