import assert from "node:assert/strict";
import { test } from "node:test";
import { readEtcdUri } from "../../../controller/store/etcd_settings.js";

test("readEtcdUri() reads members and prefix", () => {
  for (const [text, endpoints, prefix] of [
    ["etcd://127.0.0.1:2379", ["127.0.0.1:2379"], ""],
    ["etcd://a:1,b.c-d:2/", ["a:1", "b.c-d:2"], ""],
    ["etcd://[::1]:2379,[fe80::1]:2/goku-a", ["[::1]:2379", "[fe80::1]:2"], "goku-a/"],
    ["etcd://a:1/team/one/", ["a:1"], "team/one/"],
  ] as const)
    assert.deepEqual(readEtcdUri(text), { endpoints, prefix }, text);
});

test("readEtcdUri() says what is wrong and repeats no password", () => {
  for (const [text, message] of [
    ["etcd://", /member 1 is no HOST:PORT/],
    ["etcd://a", /member 1 is no HOST:PORT/],
    ["etcd://a:1,,b:2", /member 2 is no HOST:PORT/],
    ["etcd://a:65536", /member 1 is no HOST:PORT/],
    ["etcd://a:0", /member 1 is no HOST:PORT/],
    ["etcd://a:1/x//y", /prefix is "x\/\/y"/],
    ["etcd://a:1/x y", /prefix is "x y"/],
    ["etcd:/a:1", /names no member/],
    ["http://a:1", /names no member/],
  ] as const)
    assert.throws(() => readEtcdUri(text), { code: "ARGUMENT_INVALID", message }, text);
  assert.throws(
    () => readEtcdUri("etcd://root:secret@a:1"),
    (error: Error) => /--store-user/.test(error.message) && !error.message.includes("secret"),
  );
});
