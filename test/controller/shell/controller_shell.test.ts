import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import pino from "pino";
import { DEFAULT_LIMITS } from "../../../controller/core/contract.js";
import { ControllerShell } from "../../../controller/shell/controller_shell.js";
import { Metrics } from "../../../controller/shell/metrics.js";
import { ShellApi } from "../../../controller/shell/shell_api.js";
import { EmbeddedStore } from "../../../controller/store/embedded.js";
import type { StoreCompare, StoreOutcome, StoreWrite } from "../../../controller/store/store.js";
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
  await shell.start();
  await settle();
  assert.deepEqual([api.isReady(), shell.state.leader?.term], [true, 1]);
  assert.deepEqual([api.listJobs(), api.listNodes()], [[], []]);
  await close();
});

test("ControllerShell: an answer to an earlier leadership proves nothing in a later one", async () => {
  const { shell, api, late, clock, storeClock, settle, close } = await shellOn();
  late.hold = true;
  await shell.start();
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
  await assert.rejects(shell.start(), {
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
  await shell.start();
  await settle();
  assert.deepEqual(
    broken.map((error) => error.message),
    ["as if the core had"],
  );
  await close();
});
