import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { LEADER_KEY, Leadership } from "../../../controller/shell/leadership.js";
import { EmbeddedStore } from "../../../controller/store/embedded.js";
import { VirtualClock } from "../../support/virtual_clock.js";

/** Two candidates on one store, each with its own view of time. */
async function candidates() {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-leader-"));
  const storeClock = new VirtualClock();
  const store = await EmbeddedStore.open(folder, storeClock);
  const told: string[] = [];
  const fences: bigint[] = [];
  /** What candidates learnt of who leads, while they do not. */
  const others: string[] = [];
  /** Candidates that cannot read their records. */
  const broken = new Set<string>();
  const candidate = (id: string, read: () => Promise<void> = async () => {}) => {
    const clock = new VirtualClock();
    const leadership = new Leadership({
      store,
      clock,
      controllerId: id,
      leaseMs: 10_000,
      callbacks: {
        onWon: async () => {
          if (broken.has(id)) throw new Error(`${id} cannot read`);
          await read();
        },
        onGained: (fence) => {
          told.push(`${id} leads`);
          fences.push(fence);
        },
        onLost: () => told.push(`${id} lost`),
        onFailed: (error) => told.push(error.message),
        onAnswered: () => {},
        onOther: (leader) =>
          others.push(`${id} sees ${leader?.addresses?.grpc ?? leader?.controllerId ?? "nobody"}`),
      },
    });
    return { leadership, clock };
  };
  /** Time passes for these clocks; whatever it causes in the store is done when this returns. */
  const pass = async (ms: number, ...clocks: VirtualClock[]) => {
    for (const clock of clocks) await clock.advance(ms);
    for (let i = 0; i < 20; i++) await store.transact([], [{ kind: "delete", key: "none" }]);
  };
  const close = async () => {
    await store.close();
    rmSync(folder, { recursive: true });
  };
  return { store, storeClock, candidate, broken, told, fences, others, pass, close };
}

/** A store that takes its time to read what a leader must know. */
function slowly() {
  const waiting: (() => void)[] = [];
  const read = () => new Promise<void>((resolve) => waiting.push(resolve));
  const answer = () => {
    for (const resolve of waiting) resolve();
  };
  return { read, answer };
}

test("Leadership: the first candidate leads, the second waits until the first stops", async () => {
  const { candidate, told, fences, pass, close } = await candidates();
  const [a, b] = [candidate("a"), candidate("b")];
  await a.leadership.start(null);
  await b.leadership.start(null);
  await pass(2500, a.clock, b.clock);
  assert.deepEqual(told, ["a leads"]);
  await a.leadership.stop();
  await pass(2500, b.clock);
  assert.deepEqual(told, ["a leads", "a lost", "b leads"]);
  assert.ok(fences[1]! > fences[0]!, "each leader has a fence of its own");
  await b.leadership.stop();
  await close();
});

test("Leadership: a standby learns where the leader is, and when nobody leads any more", async () => {
  const { store, candidate, told, others, pass, close } = await candidates();
  const [a, b] = [candidate("a"), candidate("b")];
  await a.leadership.start({ grpc: "a.example:7070", rest: "https://a.example:7080" });
  await b.leadership.start(null);
  await pass(2500, a.clock, b.clock);
  assert.deepEqual([...new Set(others)], ["b sees a.example:7070"], "a leads, and is told of nobody");
  others.length = 0;
  await store.transact([], [{ kind: "delete", key: LEADER_KEY }]);
  await pass(0, a.clock, b.clock);
  assert.equal(others[0], "b sees nobody");
  await pass(2500, b.clock);
  assert.deepEqual(told, ["a leads", "b leads"]);
  others.length = 0;
  await a.leadership.resign("a test asks it to");
  await pass(2500, a.clock, b.clock);
  assert.deepEqual(
    [...new Set(others)],
    ["a sees b"],
    "who said nothing of its address is known to lead all the same",
  );
  await a.leadership.stop();
  await b.leadership.stop();
  await close();
});

test("Leadership: a leader that slept past its lease gives up before it learns of its successor", async () => {
  const { store, storeClock, candidate, told, pass, close } = await candidates();
  const [a, b] = [candidate("a"), candidate("b")];
  await a.leadership.start(null);
  await pass(11_000, storeClock); // a sleeps: no renewal reaches the store
  assert.equal(await store.get(LEADER_KEY), null);
  await b.leadership.start(null);
  await pass(11_000, a.clock);
  assert.deepEqual(told, ["a leads", "b leads", "a lost"]);
  await a.leadership.stop();
  await b.leadership.stop();
  await close();
});

test("Leadership: who cannot read its records says so and lets the next one lead", async () => {
  const { candidate, broken, told, pass, close } = await candidates();
  const [a, b] = [candidate("a"), candidate("b")];
  broken.add("a");
  await assert.rejects(a.leadership.start(null), /a cannot read/);
  await b.leadership.start(null);
  assert.deepEqual(told, ["b leads"]);
  broken.add("b");
  await b.leadership.resign("test");
  await pass(2500, b.clock);
  await pass(2500, b.clock);
  broken.clear();
  await pass(2500, b.clock);
  assert.deepEqual(told, ["b leads", "b lost", "b cannot read", "b cannot read", "b leads"]);
  await b.leadership.stop();
  await close();
});

test("Leadership: a renewal that hangs delays giving up by nothing, and its late answer brings nothing back", async () => {
  const { store, storeClock, candidate, told, pass, close } = await candidates();
  const a = candidate("a");
  await a.leadership.start(null);
  const renew = store.leaseRenew.bind(store);
  const answers: (() => void)[] = [];
  store.leaseRenew = (lease) =>
    new Promise((resolve) => answers.push(() => void renew(lease).then((isAlive) => resolve(isAlive))));
  await pass(625, a.clock);
  assert.equal(answers.length, 1, "its first renewal is under way");
  await pass(8_124, a.clock);
  assert.deepEqual(told, ["a leads"]);
  await pass(1, a.clock);
  assert.deepEqual(told, ["a leads", "a lost"], "an eighth of the lease before the store may end it");
  assert.equal(storeClock.now(), 0, "the store would still take it");
  for (const answer of answers) answer();
  await pass(0, a.clock);
  assert.deepEqual(told, ["a leads", "a lost"]);
  store.leaseRenew = renew;
  await a.leadership.stop();
  await close();
});

test("Leadership: answers that take longer than the pace of renewals count from when they were asked for", async () => {
  const { store, storeClock, candidate, told, pass, close } = await candidates();
  const a = candidate("a");
  await a.leadership.start(null);
  const renew = store.leaseRenew.bind(store);
  const answers: (() => void)[] = [];
  store.leaseRenew = async (lease) => {
    const isAlive = await renew(lease);
    await new Promise<void>((resolve) => answers.push(resolve));
    return isAlive;
  };
  // Each answer is four renewals late, for three lifetimes of the lease.
  for (let i = 0; i < 48; i++) {
    await pass(625, storeClock, a.clock);
    if (i >= 4) answers[i - 4]!();
    await pass(0);
  }
  assert.deepEqual(told, ["a leads"]);
  // The last that was acknowledged was sent at 44 * 625 ms: without another one it ends 8,750 ms later.
  await pass(44 * 625 + 8_750 - 48 * 625 - 1, a.clock);
  assert.deepEqual(told, ["a leads"]);
  await pass(1, a.clock);
  assert.deepEqual(told, ["a leads", "a lost"]);
  store.leaseRenew = renew;
  await a.leadership.stop();
  await close();
});

test("Leadership: a renewal that fails after a later one was answered tells nothing", async () => {
  const { store, candidate, told, pass, close } = await candidates();
  const a = candidate("a");
  await a.leadership.start(null);
  const renew = store.leaseRenew.bind(store);
  const fails: (() => void)[] = [];
  store.leaseRenew = () =>
    new Promise((_, reject) => fails.push(() => reject(new Error("the store does not answer"))));
  await pass(625, a.clock);
  await pass(625, a.clock);
  fails[0]!();
  await pass(0);
  assert.deepEqual(told, ["a leads", "the store does not answer"]);
  store.leaseRenew = renew;
  await pass(625, a.clock);
  fails[1]!();
  await pass(0);
  assert.deepEqual(told, ["a leads", "the store does not answer"]);
  await a.leadership.stop();
  await close();
});

test("Leadership: a standby leads as soon as the leader's key has gone, without waiting for its turn", async () => {
  const { candidate, told, pass, close } = await candidates();
  const [a, b] = [candidate("a"), candidate("b")];
  await a.leadership.start(null);
  await b.leadership.start(null);
  await a.leadership.stop();
  await pass(0);
  assert.deepEqual(told, ["a leads", "a lost", "b leads"]);
  await b.leadership.stop();
  await close();
});

test("Leadership: who could not end its lease removes its own old key and leads with a new fence", async () => {
  const { store, candidate, told, fences, pass, close } = await candidates();
  const a = candidate("a");
  await a.leadership.start(null);
  const revoke = store.leaseRevoke.bind(store);
  store.leaseRevoke = () => Promise.reject(new Error("the store does not answer"));
  await a.leadership.resign("test");
  assert.notEqual(await store.get(LEADER_KEY), null, "the key of its lost leadership is still there");
  await pass(2_500, a.clock);
  await pass(0, a.clock);
  assert.deepEqual(told, ["a leads", "a lost", "a leads"]);
  assert.ok(fences[1]! > fences[0]!);
  store.leaseRevoke = revoke;
  await a.leadership.stop();
  await close();
});

test("Leadership: who stops while it is just winning leaves no key behind", async () => {
  const { store, candidate, told, pass, close } = await candidates();
  const [a, b] = [candidate("a"), candidate("b")];
  await a.leadership.start(null);
  await b.leadership.start(null);
  const get = store.get.bind(store);
  let go = () => {};
  store.get = async (key) => {
    await new Promise<void>((resolve) => {
      go = resolve;
    });
    return get(key);
  };
  await a.leadership.stop();
  await pass(0);
  const stopped = b.leadership.stop();
  store.get = get;
  go();
  await stopped;
  assert.equal(await store.get(LEADER_KEY), null);
  assert.deepEqual(told.slice(0, 2), ["a leads", "a lost"]);
  assert.ok(!told.includes("b leads"));
  await close();
});

test("Leadership: the leader goes while the first try of another begins to watch it: that one is elected once", async () => {
  const { store, candidate, told, pass, close } = await candidates();
  const a = candidate("a");
  await a.leadership.start(null);
  const watch = store.watch.bind(store);
  store.watch = async (prefix, onEvents, onLost) => {
    store.watch = watch;
    const watching = await watch(prefix, onEvents, onLost);
    await a.leadership.stop();
    return watching;
  };
  const list = slowly();
  const b = candidate("b", list.read);
  await b.leadership.start(null);
  for (let i = 0; i < 3; i++) await pass(2500, b.clock);
  list.answer();
  await pass(0, b.clock);
  assert.deepEqual(told, ["a leads", "a lost", "b leads"]);
  await b.leadership.stop();
  await close();
});
