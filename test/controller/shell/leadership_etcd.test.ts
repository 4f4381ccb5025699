import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { LEADER_KEY, Leadership } from "../../../controller/shell/leadership.js";
import { systemClock } from "../../../controller/store/clock.js";
import { EtcdStore } from "../../../controller/store/etcd.js";
import { ETCD_SKIP, EtcdServers } from "../../support/etcd_servers.js";
import { TcpProxy } from "../../support/tcp_proxy.js";
import { until } from "../../support/until.js";

/** Leadership on etcd itself, with its shortest lease. Orders are asserted, never times. */
const LIMIT = { timeout: 120_000, skip: ETCD_SKIP };
const LEASE_MS = 2_000;

/** Several lifetimes of a lease: whatever would end one has. */
const lifetimes = () => new Promise((resolve) => setTimeout(resolve, 3 * LEASE_MS));

async function election(t: TestContext, members: number) {
  const servers = await EtcdServers.start({ members });
  t.after(() => servers.stop());
  const told: string[] = [];
  const fences: bigint[] = [];
  const failures: string[] = [];
  const candidate = async (id: string, endpoints: string[] = servers.endpoints) => {
    const store = await EtcdStore.open(servers.settings({ endpoints }));
    const leadership = new Leadership({
      store,
      clock: systemClock,
      controllerId: id,
      leaseMs: LEASE_MS,
      callbacks: {
        onWon: async () => {},
        onGained: (fence) => {
          told.push(`${id} leads`);
          fences.push(fence);
        },
        onLost: () => told.push(`${id} lost`),
        onFailed: (error) => failures.push(error.message),
        onAnswered: () => {},
        onOther: () => {},
      },
    });
    await leadership.start(null);
    const stop = async () => {
      await leadership.stop();
      await store.close();
    };
    t.after(stop);
    return { store, leadership, stop };
  };
  return { servers, told, fences, failures, candidate };
}

test(
  "Leadership in etcd: a leader behind a dead network gives up before another one leads",
  LIMIT,
  async (t) => {
    const { servers, told, fences, candidate } = await election(t, 1);
    const proxy = await TcpProxy.start(servers.endpoints[0]!);
    t.after(() => proxy.close());
    const a = await candidate("a", [proxy.endpoint]);
    await candidate("b");
    assert.deepEqual(told, ["a leads"]);
    proxy.hold(true); // connections stay open and say nothing
    await until(() => told.length === 3);
    assert.deepEqual(told, ["a leads", "a lost", "b leads"]);
    proxy.hold(false); // what a sent last now arrives
    const writes = [{ kind: "put", key: "record", value: new Uint8Array(1) }] as const;
    const late = await a.store.transact([{ key: LEADER_KEY, createRevision: fences[0]! }], writes);
    assert.notEqual(late.kind, "applied", "its fence is over");
    await lifetimes();
    assert.deepEqual(told, ["a leads", "a lost", "b leads"]);
  },
);

test(
  "Leadership in etcd: a leader that stops is followed at once, one that vanishes when its lease ends",
  LIMIT,
  async (t) => {
    const { servers, told, fences, candidate } = await election(t, 1);
    const proxy = await TcpProxy.start(servers.endpoints[0]!);
    t.after(() => proxy.close());
    const a = await candidate("a");
    await candidate("b", [proxy.endpoint]);
    await a.stop();
    await until(() => told.length === 3);
    await candidate("c");
    proxy.hold(true);
    await until(() => told.length === 5);
    assert.deepEqual(told, ["a leads", "a lost", "b leads", "b lost", "c leads"]);
    assert.ok(fences.every((fence, i) => i === 0 || fence > fences[i - 1]!));
  },
);

test(
  "Leadership in etcd: an outage longer than the lease ends it, and it is taken up again by itself",
  LIMIT,
  async (t) => {
    const { servers, told, fences, failures, candidate } = await election(t, 1);
    await candidate("a");
    process.kill(servers.pid(0), "SIGSTOP"); // frozen: connections stay open
    await until(() => told.length === 2);
    await lifetimes();
    process.kill(servers.pid(0), "SIGCONT");
    await until(() => told.length === 3);
    await servers.kill(0);
    await until(() => told.length === 4);
    await lifetimes();
    servers.run(0);
    await until(() => told.length === 5);
    assert.deepEqual(told, ["a leads", "a lost", "a leads", "a lost", "a leads"]);
    assert.ok(
      fences.every((fence, i) => i === 0 || fence > fences[i - 1]!),
      "each time with a fence of its own",
    );
    assert.ok(
      failures.every((message) => message.includes(servers.endpoints[0]!)),
      failures.join("\n"),
    );
  },
);

test(
  "Leadership in etcd: a member of three that dies or hangs and does not lead them disturbs nobody",
  LIMIT,
  async (t) => {
    const { servers, told, candidate } = await election(t, 3);
    const leader = await servers.leader();
    const [first, second] = [(leader + 1) % 3, (leader + 2) % 3];
    // The members that are harmed are those that the controllers talk to.
    await candidate(
      "a",
      [first, leader, second].map((i) => servers.endpoints[i]!),
    );
    await candidate(
      "b",
      [first, leader, second].map((i) => servers.endpoints[i]!),
    );
    await servers.kill(first);
    await lifetimes();
    servers.run(first);
    await servers.ready(first);
    process.kill(servers.pid(second), "SIGSTOP");
    await lifetimes();
    process.kill(servers.pid(second), "SIGCONT");
    assert.deepEqual(told, ["a leads"]);
  },
);

test("Leadership in etcd: etcd's own elections leave one leader", LIMIT, async (t) => {
  const { servers, told, candidate } = await election(t, 3);
  await candidate("a");
  await candidate("b");
  for (let i = 0; i < 3; i++) {
    const leader = await servers.leader();
    await servers.kill(leader);
    await servers.leader();
    await lifetimes();
    servers.run(leader);
    await servers.ready(leader);
  }
  // Whoever was deposed because etcd elected for too long had given up before the next one led.
  const leading = new Set<string>();
  for (const line of told) {
    const [who, what] = line.split(" ");
    if (what === "leads") leading.add(who!);
    else leading.delete(who!);
    assert.ok(leading.size <= 1, told.join(", "));
  }
  assert.equal(leading.size, 1, told.join(", "));
});
