import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ClassicLevel } from "classic-level";
import { EmbeddedStore } from "../../../controller/store/embedded.js";
import { VirtualClock } from "../../support/virtual_clock.js";
import { storeConformance } from "./suite.js";

const folder = () => mkdtempSync(path.join(tmpdir(), "goku-store-"));
const bytes = (text: string) => new TextEncoder().encode(text);

storeConformance("embedded store", async () => {
  const dir = folder();
  const clock = new VirtualClock();
  const store = await EmbeddedStore.open(dir, clock);
  const { batch } = ClassicLevel.prototype;
  return {
    store,
    failWrites: (fail) => {
      const full = () => Promise.reject(new Error("IO error: No space left on device"));
      ClassicLevel.prototype.batch = fail ? (full as unknown as typeof batch) : batch;
    },
    advance: async (ms) => {
      await clock.advance(ms);
      // A read behind the queue: everything that was due has been committed when this returns.
      await store.transact([], [{ kind: "delete", key: "no such key" }]);
    },
    close: async () => {
      await store.close();
      rmSync(dir, { recursive: true });
    },
  };
});

test("embedded store: values and revisions survive closing, leased keys do not", async () => {
  const dir = folder();
  const first = await EmbeddedStore.open(dir);
  const lease = await first.leaseGrant(60_000);
  await first.transact(
    [],
    [
      { kind: "put", key: "kept", value: bytes("1") },
      { kind: "put", key: "leased", value: bytes("1"), lease },
    ],
  );
  const before = (await first.get("kept"))!;
  await first.close();
  const second = await EmbeddedStore.open(dir);
  assert.deepEqual(await second.get("kept"), before);
  assert.equal(await second.get("leased"), null);
  const outcome = await second.transact([], [{ kind: "put", key: "next", value: bytes("2") }]);
  assert.ok(outcome.kind === "applied" && outcome.revision > before.modRevision, "revisions go on growing");
  await second.close();
  rmSync(dir, { recursive: true });
});

test("embedded store: a second process is refused by name", async () => {
  const dir = folder();
  const store = await EmbeddedStore.open(dir);
  await assert.rejects(EmbeddedStore.open(dir), {
    code: "STORE_LOCKED",
    message: /another controller holds it; stop that one or choose another --store/,
  });
  await store.close();
  rmSync(dir, { recursive: true });
});

test("embedded store: what was acknowledged survives SIGKILL of its process", async () => {
  const dir = folder();
  const child = fork(path.join(import.meta.dirname, "writer.js"), [dir]);
  const acknowledged = new Set<string>();
  await new Promise<void>((resolve) => {
    child.on("message", (key: string) => {
      acknowledged.add(key);
      if (acknowledged.size === 200) {
        child.kill("SIGKILL");
        resolve();
      }
    });
  });
  await once(child, "exit");
  const store = await EmbeddedStore.open(dir);
  const missing = [];
  for (const key of acknowledged) if (!(await store.get(key))) missing.push(key);
  assert.deepEqual(missing, []);
  await store.close();
  rmSync(dir, { recursive: true });
});
