import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import pino from "pino";
import { DEFAULT_LIMITS } from "../../../controller/core/contract.js";
import { ControllerShell } from "../../../controller/shell/controller_shell.js";
import { encodeLeader } from "../../../controller/shell/leader_record.js";
import { LEADER_KEY } from "../../../controller/shell/leadership.js";
import { Metrics } from "../../../controller/shell/metrics.js";
import { ShellApi } from "../../../controller/shell/shell_api.js";
import { EmbeddedStore } from "../../../controller/store/embedded.js";
import type { StoreCompare, StoreOutcome, StoreWrite } from "../../../controller/store/store.js";
import { JobPhase } from "../../../gen/goku/v1/controller.pb.js";
import { chooseLayout } from "../../../job/choose_layout.js";
import { VirtualClock } from "../../support/virtual_clock.js";

/** A store whose answers to the core's writes are held back, as a network may. */
class LateStore {
  readonly store: EmbeddedStore;
  readonly #transact: EmbeddedStore["transact"];
  hold = false;
  /** Gives each answer that was held back, oldest first. */
  readonly held: (() => void)[] = [];

  constructor(store: EmbeddedStore) {
    this.store = store;
    this.#transact = store.transact.bind(store);
    store.transact = async (compares, writes) => await this.#answer(compares, writes);
  }

  async #answer(compares: readonly StoreCompare[], writes: readonly StoreWrite[]): Promise<StoreOutcome> {
    const ofCore = this.hold && writes.some(({ key }) => key.startsWith("goku/core/"));
    const outcome = await this.#transact(compares, writes);
    if (ofCore) await new Promise<void>((resolve) => this.held.push(resolve));
    return outcome;
  }
}

async function shellOn(log: pino.Logger = pino({ level: "silent" })) {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-shell-"));
  const storeClock = new VirtualClock();
  const late = new LateStore(await EmbeddedStore.open(folder, storeClock));
  const clock = new VirtualClock();
  const broken: Error[] = [];
  const shell = new ControllerShell({
    store: late.store,
    clock,
    leaseMs: 10_000,
    config: { limits: DEFAULT_LIMITS, version: "1.0.0", chooseLayout },
    metrics: new Metrics(),
    log,
    onBroken: (error) => broken.push(error),
  });
  /** What was under way is done when this returns. */
  const settle = async () => {
    for (let i = 0; i < 50; i++) await late.store.transact([], [{ kind: "delete", key: "none" }]);
  };
  const close = async () => {
    await shell.stop();
    await late.store.close();
    rmSync(folder, { recursive: true });
  };
  return { shell, api: new ShellApi(shell), late, clock, storeClock, broken, settle, close };
}

test("ControllerShell: leads once its term is durable", async () => {
  const { shell, api, settle, close } = await shellOn();
  for (const ask of [() => api.listJobs(), () => api.listNodes(), () => api.getJob("shapes")])
    assert.throws(ask, { code: "NOT_LEADER" }, "before, it must not say that there is nothing");
  await shell.start(null);
  await settle();
  assert.deepEqual([api.isReady(), shell.state.leader?.term], [true, 1]);
  assert.deepEqual([api.listJobs(), api.listNodes()], [[], []]);
  await close();
});

test("ControllerShell: an answer to an earlier leadership proves nothing in a later one", async () => {
  const { shell, api, late, clock, storeClock, settle, close } = await shellOn();
  late.hold = true;
  await shell.start(null);
  await settle();
  assert.equal(late.held.length, 1, "the first term is written, its answer is under way");
  await storeClock.advance(11_000); // the lease ends
  await settle();
  await clock.advance(2_500); // which this controller learns
  await settle();
  await clock.advance(2_500);
  await settle();
  assert.equal(late.held.length, 2, "leads again; the answer to the second term is under way too");
  late.held[0]!();
  await settle();
  assert.equal(api.isReady(), false);
  late.held[1]!();
  await settle();
  assert.deepEqual([api.isReady(), shell.state.leader?.term], [true, 2]);
  await close();
});

test("ControllerShell: a record that cannot be read is named at the start", async () => {
  const { shell, late, close } = await shellOn();
  const value = new TextEncoder().encode('{"kind":"te');
  await late.store.transact([], [{ kind: "put", key: "goku/core/term", value }]);
  await assert.rejects(shell.start(null), {
    code: "STORE_UNAVAILABLE",
    message: /^Cannot read record goku\/core\/term of the store: .*; restore the store from a copy/,
  });
  await close();
});

test("ControllerShell: a core that threw is used no more", async () => {
  const log = pino({ level: "silent" });
  log.info = (...args: unknown[]) => {
    if (String(args[1]).includes("leads term")) throw new Error("as if the core had");
  };
  const { shell, broken, settle, close } = await shellOn(log);
  await shell.start(null);
  await settle();
  assert.deepEqual(
    broken.map((error) => error.message),
    ["as if the core had"],
  );
  await close();
});

test("ControllerShell: a store that does not answer is told once, and once when it does again", async () => {
  const { shell, api, late, clock, settle, close } = await shellOn();
  await shell.start(null);
  await settle();
  const train = { steps: 10, packs_per_step: 4, tokens_per_pack: 512 };
  const job = { name: "shapes", data: { media: "/data" }, train, checkpoint: { uri: "file:///nowhere/run" } };
  const submitted = api.submitJob(job, null);
  await settle();
  await submitted;
  const told = () => shell.events.past("", 0n).filter(({ kind }) => kind === "alarm");
  const renew = late.store.leaseRenew.bind(late.store);
  const grant = late.store.leaseGrant.bind(late.store);
  const silent = () => Promise.reject(new Error("etcd at a:1 (gone)"));
  Object.assign(late.store, { leaseRenew: silent, leaseGrant: silent });
  for (let i = 0; i < 5; i++) {
    await clock.advance(625);
    await settle();
  }
  assert.equal(api.isReady(), true, "its lease is not over yet");
  for (let i = 0; i < 20; i++) {
    await clock.advance(625);
    await settle();
  }
  assert.equal(api.isReady(), false);
  assert.equal(api.standing(), "this controller does not lead: etcd at a:1 (gone)");
  // What it knew is still told, and of when that is; nothing is changed.
  const names = () => api.listJobs().map(({ name, phase }) => [name, phase]);
  assert.deepEqual(names(), [["shapes", JobPhase.QUEUED]]);
  assert.equal(api.getJob("shapes").status.name, "shapes");
  assert.ok(api.asOf()!.storeSilentMs! <= api.asOf()!.atMs);
  for (const change of [
    () => api.stopJob("shapes", null),
    () => api.saveJob("shapes"),
    () => api.drainNode("a"),
  ])
    await assert.rejects(change, { code: "NOT_LEADER", message: /etcd at a:1 \(gone\)/ });
  assert.deepEqual(
    told().map(({ message }) => message),
    ["etcd at a:1 (gone); goes on trying, training goes on meanwhile"],
  );
  Object.assign(late.store, { leaseRenew: renew, leaseGrant: grant });
  for (let i = 0; i < 5; i++) {
    await clock.advance(2_500);
    await settle();
  }
  assert.equal(api.isReady(), true);
  assert.equal(api.asOf(), null);
  assert.deepEqual(names(), [["shapes", JobPhase.QUEUED]]);
  assert.match(told().at(-1)!.message, /^the store answers again after \d+\.\d s$/);
  assert.equal(told().length, 2);
  await close();
});

test("ControllerShell: what it remembers is over when another controller leads", async () => {
  const { shell, api, late, clock, storeClock, settle, close } = await shellOn();
  await shell.start(null);
  await settle();
  assert.equal(api.asOf(), null);
  const renew = late.store.leaseRenew.bind(late.store);
  late.store.leaseRenew = () => Promise.reject(new Error("the network is cut"));
  await storeClock.advance(11_000); // its lease ends, and another one's begins
  await late.store.transact(
    [],
    [
      {
        kind: "put",
        key: LEADER_KEY,
        value: encodeLeader({ controllerId: "other", addresses: null }),
        lease: await late.store.leaseGrant(60_000),
      },
    ],
  );
  for (let i = 0; i < 20; i++) {
    await clock.advance(625);
    await settle();
  }
  assert.notEqual(api.asOf(), null, "it cannot know");
  assert.deepEqual(api.listJobs(), []);
  late.store.leaseRenew = renew;
  for (let i = 0; i < 5; i++) {
    await clock.advance(2_500);
    await settle();
  }
  assert.throws(() => api.listJobs(), { code: "NOT_LEADER", message: /another controller leads/ });
  assert.equal(api.asOf(), null);
  await close();
});
