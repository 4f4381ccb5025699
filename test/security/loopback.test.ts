import assert from "node:assert/strict";
import { test } from "node:test";
import { hostOf, joinAddress } from "../../security/loopback.js";

test("hostOf() and joinAddress() undo each other, with the brackets of IPv6", () => {
  for (const [host, address] of [
    ["10.0.0.1", "10.0.0.1:7070"],
    ["::1", "[::1]:7070"],
    ["a.example", "a.example:7070"],
  ] as const) {
    assert.equal(joinAddress(host, 7070), address);
    assert.equal(hostOf(address), host);
  }
});
