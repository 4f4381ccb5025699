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
  /** Candidates that cannot read their records. */
  const broken = new Set<string>();
  const candidate = (id: string) => {
    const clock = new VirtualClock();
    const leadership = new Leadership({
      store,
      clock,
      controllerId: id,
      callbacks: {
        onWon: async () => {
          if (broken.has(id)) throw new Error(`${id} cannot read`);
        },
        onGained: (fence) => {
          told.push(`${id} leads`);
          fences.push(fence);
        },
        onLost: () => told.push(`${id} lost`),
        onFailed: (error) => told.push(error.message),
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
  return { store, storeClock, candidate, broken, told, fences, pass, close };
}

test("Leadership: the first candidate leads, the second waits until the first stops", async () => {
  const { candidate, told, fences, pass, close } = await candidates();
  const [a, b] = [candidate("a"), candidate("b")];
  await a.leadership.start();
  await b.leadership.start();
  await pass(2500, a.clock, b.clock);
  assert.deepEqual(told, ["a leads"]);
  await a.leadership.stop();
  await pass(2500, b.clock);
  assert.deepEqual(told, ["a leads", "a lost", "b leads"]);
  assert.ok(fences[1]! > fences[0]!, "each leader has a fence of its own");
  await b.leadership.stop();
  await close();
});

test("Leadership: a leader that slept past its lease gives up before it learns of its successor", async () => {
  const { store, storeClock, candidate, told, pass, close } = await candidates();
  const [a, b] = [candidate("a"), candidate("b")];
  await a.leadership.start();
  await pass(11_000, storeClock); // a sleeps: no renewal reaches the store
  assert.equal(await store.get(LEADER_KEY), null);
  await b.leadership.start();
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
  await assert.rejects(a.leadership.start(), /a cannot read/);
  await b.leadership.start();
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
