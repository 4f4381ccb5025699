import assert from "node:assert/strict";
import { after, before, type TestContext, test } from "node:test";
import { EtcdStore } from "../../../controller/store/etcd.js";
import type { StoreEvent } from "../../../controller/store/store.js";
import { ETCD_SKIP, EtcdServers } from "../../support/etcd_servers.js";
import { withUsers } from "../../support/etcd_users.js";
import { TcpProxy } from "../../support/tcp_proxy.js";
import { until } from "../../support/until.js";

/** Watches through a network that breaks, on etcd itself; where `etcd3` has a fault, what its own watch makes of the same. */
const LIMIT = { timeout: 60_000, skip: ETCD_SKIP };
const CUTS = 5;

let servers: EtcdServers;
before(async () => {
  if (ETCD_SKIP === false) servers = await EtcdServers.start();
});
after(() => servers?.stop());

const bytes = (text: string) => new TextEncoder().encode(text);
const put = (key: string, value: string) => ({ kind: "put", key, value: bytes(value) }) as const;
const told = (events: readonly StoreEvent[]) =>
  events.map(({ kind, key, value }) =>
    value === null ? `${kind} ${key}` : `${key}=${new TextDecoder().decode(value)}`,
  );

/** A store that writes undisturbed, and one that watches through a proxy. */
async function onBadNetwork(t: TestContext, prefix: string) {
  const proxy = await TcpProxy.start(servers.endpoints[0]!);
  const writer = await EtcdStore.open(servers.settings({ prefix }));
  const store = await EtcdStore.open(servers.settings({ prefix, endpoints: [proxy.endpoint] }));
  const seen: StoreEvent[] = [];
  const lost: string[] = [];
  t.after(async () => {
    await store.close();
    await writer.close();
    await proxy.close();
  });
  const watch = (key: string) =>
    store.watch(
      key,
      (events) => seen.push(...events),
      (reason) => lost.push(reason),
    );
  const compact = async () => {
    const { header } = await servers.client(0).kv.range({ key: Buffer.from("x") });
    await servers.client(0).kv.compact({ revision: header.revision, physical: true });
  };
  return { proxy, writer, seen, lost, watch, compact };
}

test(
  "etcd watch: connections that break between its creation and the history lose nothing",
  LIMIT,
  async (t) => {
    const { proxy, writer, seen, lost, watch } = await onBadNetwork(t, "history/");
    await watch("w/");
    await writer.transact([], [put("w/first", "1")]);
    await until(() => seen.length === 1);
    proxy.hold(true);
    proxy.cut();
    for (let i = 0; i < 10; i++) await writer.transact([], [put("w/k", String(i))]);
    proxy.cutsAfterFirst = CUTS;
    proxy.hold(false);
    await until(() => seen.length >= 11);
    assert.equal(proxy.cutsAfterFirst, 0, "it was cut that often");
    assert.deepEqual(told(seen), ["w/first=1", ...Array.from({ length: 10 }, (_, i) => `w/k=${i}`)]);
    assert.deepEqual(lost, []);
  },
);

test("etcd3's own watch does lose them, which is why it is not used", LIMIT, async (t) => {
  const { proxy, writer } = await onBadNetwork(t, "history3/");
  const client = servers.client(0, { hosts: proxy.endpoint });
  const seen: string[] = [];
  const watcher = await client.watch().prefix("history3/w/").create();
  t.after(() => void watcher.cancel().catch(() => {}));
  watcher.on("put", ({ key, value }) => seen.push(`${key}=${value}`)).on("error", () => {});
  await writer.transact([], [put("w/first", "1")]);
  await until(() => seen.length === 1);
  proxy.hold(true);
  proxy.cut();
  await writer.transact([], [put("w/k", "1")]);
  proxy.cutsAfterFirst = 1;
  proxy.hold(false);
  await until(() => proxy.cutsAfterFirst === 0);
  await until(() => proxy.connections > 0);
  while (!seen.includes("history3/w/last=1")) {
    await writer.transact([], [put("w/last", "1")]);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.ok(!seen.includes("history3/w/k=1"), "should it have learnt this, our own watch may go");
});

/** More than etcd puts into one answer when a watch catches up (1,000 revisions). */
const MISSED = 2_500;

/** That many revisions, each of a key of its own. */
async function writeMany(prefix: string): Promise<void> {
  const client = servers.client(0, { defaultCallOptions: {} });
  const keys = Array.from({ length: MISSED }, (_, i) => `${prefix}${i}`);
  for (let at = 0; at < MISSED; at += 100)
    await Promise.all(keys.slice(at, at + 100).map((key) => client.put(key).value("1").exec()));
}

test(
  "etcd watch: connections that break while it catches up with thousands of revisions lose none and repeat none",
  LIMIT,
  async (t) => {
    const { proxy, writer, seen, lost, watch } = await onBadNetwork(t, "catch-up/");
    const watching = await watch("w/");
    t.after(() => watching.close());
    await writer.transact([], [put("w/first", "1")]);
    await until(() => seen.length === 1);
    proxy.hold(true);
    proxy.cut();
    await writeMany("catch-up/w/");
    proxy.hold(false);
    // Cut each time that a part has come.
    const cutAt: number[] = [];
    await until(() => {
      const before = cutAt.at(-1) ?? 1;
      if (seen.length > before && seen.length <= MISSED) {
        cutAt.push(seen.length);
        proxy.cut();
      }
      return seen.length > MISSED;
    });
    assert.ok(cutAt.length > 0 && cutAt[0]! < MISSED, `cut after ${cutAt.join(", ")} events`);
    const keys = seen.slice(1).map(({ key }) => Number(key.slice("w/".length)));
    assert.equal(seen.length, 1 + MISSED);
    assert.equal(new Set(keys).size, MISSED);
    const revisions = seen.map(({ modRevision }) => modRevision);
    assert.ok(revisions.every((revision, i) => i === 0 || revision > revisions[i - 1]!));
    assert.deepEqual(lost, []);
  },
);

test("etcd watch: what was compacted away meanwhile is told as what it came to", LIMIT, async (t) => {
  const { proxy, writer, seen, lost, watch, compact } = await onBadNetwork(t, "compact/");
  await writer.transact([], [put("w/same", "1"), put("w/changed", "1"), put("w/gone", "1")]);
  await watch("w/");
  await until(() => seen.length === 3);
  seen.length = 0;
  proxy.hold(true);
  proxy.cut();
  for (let i = 2; i < 10; i++) await writer.transact([], [put("w/changed", String(i))]);
  await writer.transact([], [put("w/born", "1"), { kind: "delete", key: "w/gone" }]);
  await writer.transact([], [put("w/brief", "1")]);
  await writer.transact([], [{ kind: "delete", key: "w/brief" }]);
  await compact();
  proxy.hold(false);
  await until(() => seen.length >= 3);
  await writer.transact([], [put("w/after", "1")]);
  await until(() => seen.length >= 4);
  assert.deepEqual(told(seen), ["w/changed=9", "w/born=1", "delete w/gone", "w/after=1"]);
  assert.ok(seen.every((e, i) => i === 0 || e.modRevision >= seen[i - 1]!.modRevision));
  assert.deepEqual(lost, []);
});

test("etcd watch: a store set back to an older copy is read anew", LIMIT, async (t) => {
  const [older, newer] = [await EtcdServers.start(), await EtcdServers.start()];
  t.after(() => Promise.all([older.stop(), newer.stop()]));
  const proxy = await TcpProxy.start(newer.endpoints[0]!);
  t.after(() => proxy.close());
  const fill = async (servers: EtcdServers, count: number) => {
    const store = await EtcdStore.open(servers.settings());
    for (let i = 0; i < count; i++) await store.transact([], [put("w/k", String(i))]);
    return store;
  };
  const writers = [await fill(older, 3), await fill(newer, 9)];
  const store = await EtcdStore.open(newer.settings({ endpoints: [proxy.endpoint] }));
  t.after(() => Promise.all([...writers, store].map((one) => one.close())));
  const seen: StoreEvent[] = [];
  await store.watch("w/", (events) => seen.push(...events), assert.fail);
  proxy.divert(older.endpoints[0]!);
  await until(() => seen.length >= 2);
  await writers[0]!.transact([], [put("w/k", "next")]);
  await until(() => seen.length >= 3);
  assert.deepEqual(told(seen), ["w/k=8", "w/k=2", "w/k=next"]);
});

test("etcd watch: one that is refused ends alone, with etcd's reason", LIMIT, async (t) => {
  const guarded = await EtcdServers.start();
  t.after(() => guarded.stop());
  const root = await withUsers(guarded);
  const proxy = await TcpProxy.start(guarded.endpoints[0]!);
  t.after(() => proxy.close());
  const login = { user: "goku", password: "goku-password" };
  const store = await EtcdStore.open(
    guarded.settings({ endpoints: [proxy.endpoint], prefix: "goku/", login }),
  );
  t.after(() => store.close());
  const seen: StoreEvent[] = [];
  const lost: string[] = [];
  await store.watch(
    "kept/",
    (events) => seen.push(...events),
    () => assert.fail(),
  );
  await store.watch(
    "",
    () => {},
    (reason) => lost.push(reason),
  );
  // From now on this user may not see all of it.
  const whole = {
    key: Buffer.from("goku/"),
    range_end: Buffer.from("goku0"),
    permType: "Readwrite",
  } as const;
  await root.auth.roleRevokePermission({ role: "goku", key: whole.key, range_end: whole.range_end });
  const part = {
    key: Buffer.from("goku/kept/"),
    range_end: Buffer.from("goku/kept0"),
    permType: "Readwrite",
  } as const;
  await root.auth.roleGrantPermission({ name: "goku", perm: part });
  proxy.cut();
  await until(() => lost.length === 1);
  assert.match(lost[0]!, /permission denied/);
  // What is cut off from etcd just then is not known to be applied, and not tried again by itself.
  await until(async () => (await store.transact([], [put("kept/k", "1")])).kind === "applied");
  await until(() => seen.length > 0);
  await assert.rejects(store.list(""), {
    code: "STORE_UNAVAILABLE",
    message: /Cannot list : etcd at 127\.0\.0\.1:\d+ \(.*permission denied\)/,
  });
});

test("etcd watch: one that hangs is opened again", LIMIT, async (t) => {
  const { proxy, writer, seen, watch } = await onBadNetwork(t, "hang/");
  await watch("w/");
  await writer.transact([], [put("w/k", "1")]);
  await until(() => seen.length === 1);
  proxy.hold(true); // nothing ends, nothing is said
  await writer.transact([], [put("w/k", "2")]);
  const { connections } = proxy;
  await until(() => proxy.connections > connections); // it has noticed
  proxy.cut();
  proxy.hold(false);
  await until(() => seen.length === 2);
  assert.deepEqual(told(seen), ["w/k=1", "w/k=2"]);
});

test("etcd watch: a closed one tells nothing more", LIMIT, async (t) => {
  const { proxy, writer, seen, watch } = await onBadNetwork(t, "closed/");
  const [closed, open] = [await watch("a/"), await watch("b/")];
  closed.close();
  proxy.cut();
  await writer.transact([], [put("a/k", "1")]);
  await writer.transact([], [put("b/k", "1")]);
  await until(() => seen.length > 0);
  open.close();
  assert.deepEqual(told(seen), ["b/k=1"]);
});
