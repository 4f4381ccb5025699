import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { readStore, type StoreOptions } from "../../cli/read_store.js";

test("readStore() takes a folder, or etcd with or without TLS and a user", async () => {
  assert.deepEqual(await readStore({ store: "runs/store" }), {
    kind: "embedded",
    folder: path.resolve("runs/store"),
  });
  assert.deepEqual(await readStore({ store: "etcd://127.0.0.1:1,localhost:2/x" }), {
    kind: "etcd",
    endpoints: ["127.0.0.1:1", "localhost:2"],
    prefix: "x/",
    files: { tls: null, login: null },
  });
  const options = {
    store: "etcd://a:1",
    storeCa: "ca.pem",
    storeCert: "cert.pem",
    storeKey: "key.pem",
    storeUser: "goku",
    storePasswordFile: "password",
  };
  assert.deepEqual(await readStore(options), {
    kind: "etcd",
    endpoints: ["a:1"],
    prefix: "",
    files: {
      tls: { ca: "ca.pem", client: { cert: "cert.pem", key: "key.pem" } },
      login: { user: "goku", passwordFile: "password" },
    },
  });
});

test("readStore() takes etcd beyond this machine only with TLS, and with a certificate or a user", async () => {
  const store = "etcd://127.0.0.1:1,10.0.0.1:2,[::1]:3";
  const tls = { storeCa: "ca.pem" };
  const client = { storeCert: "cert.pem", storeKey: "key.pem" };
  const user = { storeUser: "goku", storePasswordFile: "password" };
  const refused: [Omit<StoreOptions, "store">, RegExp][] = [
    [{}, /--store: .*to 10\.0\.0\.1:2 in the clear, want --store-ca, and --store-user or --store-cert/],
    [user, /--store: .*to 10\.0\.0\.1:2 in the clear, want --store-ca/],
    [tls, /--store: whoever reaches 10\.0\.0\.1:2 .*want --store-user, or --store-cert with --store-key/],
  ];
  for (const [options, message] of refused)
    await assert.rejects(readStore({ store, ...options }), { code: "ARGUMENT_INVALID", message });
  for (const options of [
    { ...tls, ...client },
    { ...tls, ...user },
  ])
    assert.equal((await readStore({ store, ...options })).kind, "etcd");
});

test("readStore() says which option is wrong", async () => {
  const wrong: [Omit<StoreOptions, "store"> & { store?: string }, RegExp][] = [
    [{ store: "runs", storeUser: "goku" }, /--store: it names a folder/],
    [{ store: "http://a:1" }, /--store: it names no member/],
    [{ storeCert: "cert.pem" }, /--store-cert: .*want --store-key, too/],
    [{ storeCert: "cert.pem", storeKey: "key.pem" }, /--store-cert: .*want --store-ca/],
    [{ storePasswordFile: "x" }, /--store-password-file: .*want --store-user/],
    [{ storeUser: "goku" }, /--store-user: there is no password, want --store-password-file/],
    [
      { storeUser: "goku", storePasswordFile: "x" },
      /--store: .* would go to a:1 in the clear, want --store-ca/,
    ],
  ];
  for (const [options, message] of wrong)
    await assert.rejects(readStore({ store: "etcd://a:1", ...options }), {
      code: "ARGUMENT_INVALID",
      message,
    });
});
