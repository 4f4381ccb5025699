import assert from "node:assert/strict";
import { test } from "node:test";
import type { Store, StoreEvent } from "../../../controller/store/store.js";

/** What a store under test offers: a fresh instance, and time that can be let pass. */
export interface StoreHarness {
  store: Store;
  /** Lets at least `ms` pass and what is due happen. */
  advance(ms: number): Promise<void>;
  /** From now on writes fail, or work again. */
  failWrites(fail: boolean): void | Promise<void>;
  close(): Promise<void>;
}

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (value: Uint8Array | null | undefined) => (value ? new TextDecoder().decode(value) : null);
const put = (key: string, value: string, lease?: string) =>
  ({ kind: "put", key, value: bytes(value), ...(lease === undefined ? {} : { lease }) }) as const;

/** The behaviour every store has; the embedded one and etcd run it alike. */
export function storeConformance(
  name: string,
  open: () => Promise<StoreHarness>,
  options: { skip?: string | false } = {},
): void {
  const check = (what: string, body: (harness: StoreHarness) => Promise<void>) =>
    test(`${name}: ${what}`, options, async () => {
      const harness = await open();
      try {
        await body(harness);
      } finally {
        await harness.close();
      }
    });

  check("a put is read back with its revisions", async ({ store }) => {
    const first = await store.transact([], [put("a", "1")]);
    const second = await store.transact([], [put("a", "2")]);
    assert.ok(first.kind === "applied" && second.kind === "applied" && second.revision > first.revision);
    const entry = await store.get("a");
    assert.equal(text(entry?.value), "2");
    assert.equal(entry?.createRevision, first.revision);
    assert.equal(entry?.modRevision, second.revision);
    assert.equal(await store.get("b"), null);
  });

  check("list returns a prefix in key order and nothing else", async ({ store }) => {
    await store.transact([], [put("jobs/b", "2"), put("jobs/a", "1"), put("job", "x"), put("jobs0", "y")]);
    assert.deepEqual(
      (await store.list("jobs/")).map((e) => e.key),
      ["jobs/a", "jobs/b"],
    );
  });

  check("of two transactions on one revision only one is applied", async ({ store }) => {
    const born = await store.transact([{ key: "k", modRevision: 0n }], [put("k", "0")]);
    assert.equal(born.kind, "applied");
    const modRevision = (await store.get("k"))!.modRevision;
    const both = await Promise.all(
      ["x", "y"].map((value) => store.transact([{ key: "k", modRevision }], [put("k", value)])),
    );
    assert.deepEqual(both.map((o) => o.kind).sort(), ["applied", "refused"]);
    const refused = both.find((o) => o.kind === "refused");
    assert.ok(refused?.kind === "refused" && refused.found.length === 1, "a refusal shows what was found");
  });

  check("a refused transaction writes nothing at all", async ({ store }) => {
    await store.transact([], [put("guard", "1")]);
    const outcome = await store.transact(
      [{ key: "guard", modRevision: 0n }],
      [put("p", "1"), put("q", "1"), { kind: "delete", key: "guard" }],
    );
    assert.equal(outcome.kind, "refused");
    assert.equal(await store.get("p"), null);
    assert.equal(text((await store.get("guard"))?.value), "1");
  });

  check("a deleted and recreated key has a new create revision", async ({ store }) => {
    await store.transact([], [put("k", "1")]);
    const old = (await store.get("k"))!.createRevision;
    await store.transact([], [{ kind: "delete", key: "k" }]);
    await store.transact([], [put("k", "2")]);
    assert.equal(
      (await store.transact([{ key: "k", createRevision: old }], [put("k", "3")])).kind,
      "refused",
    );
  });

  check("a watch shows what is there, then every change in order", async ({ store, advance }) => {
    await store.transact([], [put("w/a", "1"), put("other", "1")]);
    const seen: StoreEvent[] = [];
    const watch = await store.watch("w/", (events) => seen.push(...events), assert.fail);
    for (let i = 0; i < 20; i++) await store.transact([], [put(`w/${i % 3}`, String(i))]);
    await store.transact([], [{ kind: "delete", key: "w/a" }]);
    await advance(1);
    while (seen.length < 22) await advance(1); // over a network, what has happened is told later
    watch.close();
    await store.transact([], [put("w/late", "1")]);
    await advance(1);
    assert.deepEqual(
      seen.map((e) => `${e.kind} ${e.key} ${text(e.value)}`),
      ["put w/a 1", ...Array.from({ length: 20 }, (_, i) => `put w/${i % 3} ${i}`), "delete w/a null"],
    );
    assert.ok(seen.every((e, i) => i === 0 || e.modRevision > seen[i - 1]!.modRevision));
  });

  check("a transaction that not every store can take is refused by all", async ({ store }) => {
    const many = Array.from({ length: 128 }, (_, i) => put(`k/${String(i).padStart(3, "0")}`, "1"));
    const compares = many.map(({ key }) => ({ key, modRevision: 0n }));
    assert.equal((await store.transact(compares, many)).kind, "applied");
    const refused = await store.transact(compares, many);
    assert.deepEqual(
      refused.kind === "refused" && refused.found.map(({ key }) => key),
      many.map(({ key }) => key),
    );
    await assert.rejects(store.transact([], [...many, put("l", "1")]), /129 writes, want at most 128/);
    await assert.rejects(store.transact([...compares, compares[0]!], []), /129 compares, want at most 128/);
    await assert.rejects(store.transact([], [put("l", "1"), put("l", "2")]), /l is written twice/);
    assert.equal(await store.get("l"), null);
  });

  check("a list of more than 4 MiB comes whole", async ({ store }) => {
    const value = "x".repeat(1 << 20);
    for (let i = 0; i < 5; i++) await store.transact([], [put(`large/${i}`, value)]);
    assert.deepEqual(
      (await store.list("large/")).map((entry) => entry.value.length),
      Array(5).fill(1 << 20),
    );
  });

  check("a leased key lives while renewed and vanishes after its time", async ({ store, advance }) => {
    const lease = await store.leaseGrant(3000);
    await store.transact([], [put("leader", "me", lease)]);
    for (let i = 0; i < 3; i++) {
      await advance(2000);
      assert.equal(await store.leaseRenew(lease), true);
    }
    assert.equal(text((await store.get("leader"))?.value), "me");
    await advance(5000);
    assert.equal(await store.get("leader"), null);
    assert.equal(await store.leaseRenew(lease), false);
    assert.notEqual((await store.transact([], [put("leader", "again", lease)])).kind, "applied");
  });

  check("revoking a lease deletes its keys at once", async ({ store }) => {
    const lease = await store.leaseGrant(60_000);
    await store.transact([], [put("x", "1", lease), put("y", "1")]);
    await store.leaseRevoke(lease);
    assert.equal(await store.get("x"), null);
    assert.equal(text((await store.get("y"))?.value), "1");
  });

  check("a leased key ends with its lease though writes fail", async ({ store, advance, failWrites }) => {
    const lease = await store.leaseGrant(3000);
    await store.transact([], [put("leader", "me", lease), put("kept", "1")]);
    await failWrites(true);
    await advance(5000);
    assert.equal((await store.transact([], [put("kept", "2")])).kind, "unknown");
    await failWrites(false);
    await advance(5000);
    assert.equal(await store.get("leader"), null);
    const next = await store.leaseGrant(3000);
    const born = [{ key: "leader", createRevision: 0n }];
    assert.equal((await store.transact(born, [put("leader", "next", next)])).kind, "applied");
  });

  check("a lease that ends while a key is put under it takes the key along", async ({ store }) => {
    const lease = await store.leaseGrant(60_000);
    const putting = store.transact([], [put("leader", "me", lease)]);
    await Promise.resolve().then(() => Promise.resolve()); // being written
    await Promise.all([putting, store.leaseRevoke(lease)]);
    assert.equal(await store.get("leader"), null);
  });

  check("a thousand concurrent increments lose none", async ({ store }) => {
    await store.transact([], [put("n", "0")]);
    const increment = async () => {
      for (;;) {
        const entry = (await store.get("n"))!;
        const next = String(Number(text(entry.value)) + 1);
        const outcome = await store.transact(
          [{ key: "n", modRevision: entry.modRevision }],
          [put("n", next)],
        );
        if (outcome.kind === "applied") return;
      }
    };
    await Promise.all(
      Array.from({ length: 20 }, async () => {
        for (let i = 0; i < 50; i++) await increment();
      }),
    );
    assert.equal(text((await store.get("n"))?.value), "1000");
  });
}
