import assert from "node:assert/strict";
import { test } from "node:test";
import { requireSafeListen } from "../../security/listen_rule.js";

function listen(host: string, tls: boolean, asks: boolean): string {
  try {
    requireSafeListen({ what: "it", host, tls, asks, advice: "do this" });
    return "";
  } catch (error) {
    return (error as Error).message;
  }
}

test("requireSafeListen(): loopback in any of its names may be open; nothing else may, not even by mistake", () => {
  for (const host of ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost"])
    assert.equal(listen(host, false, false), "", host);
  const beyond = [
    "0.0.0.0",
    "::",
    "10.0.0.1",
    "128.0.0.1",
    "127.0.0.1.example",
    "127.1",
    "2130706433",
    "host",
    "",
  ];
  for (const host of beyond) {
    assert.match(listen(host, false, false), /no TLS and no tokens or client certificates; do this/, host);
    assert.match(listen(host, true, false), /has no tokens or client certificates; do this/, host);
    assert.match(listen(host, false, true), /has no TLS; do this/, host);
    assert.equal(listen(host, true, true), "", host);
  }
});
