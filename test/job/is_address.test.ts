import assert from "node:assert/strict";
import { test } from "node:test";
import { isAddress } from "../../job/is_address.js";

test("isAddress() takes names, IPv4 and IPv6 in brackets, with a port", () => {
  for (const address of ["localhost:1", "a-b.example:65535", "10.0.0.1:7070", "[::1]:7070", "[fe80::1]:2"])
    assert.ok(isAddress(address), address);
  for (const text of [
    "",
    "a",
    ":1",
    "a:",
    "a:0",
    "a:65536",
    "a b:1",
    "::1:7070",
    "[a]:1",
    "[]:1",
    "[::1]",
    "a:1:2",
  ])
    assert.ok(!isAddress(text), text);
});
