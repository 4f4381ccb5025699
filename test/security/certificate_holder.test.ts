import assert from "node:assert/strict";
import { test } from "node:test";
import type { PeerCertificate } from "node:tls";
import { certificateHolder } from "../../security/certificate_holder.js";

const holder = (subject: object) => certificateHolder({ subject } as unknown as PeerCertificate);

test("certificateHolder(): the one goku role among the organisations; two of them, or an unknown one, are none", () => {
  assert.deepEqual(holder({ CN: "alice", O: "goku:operate" }), { name: "alice", role: "operate" });
  assert.deepEqual(holder({ CN: "a", O: ["Example", "goku:read"] }), { name: "a", role: "read" });
  for (const O of [undefined, "Example", "operate", "goku:admin", ["goku:read", "goku:operate"]])
    assert.equal(holder({ CN: "a", O })!.role, null, String(O));
  assert.equal(certificateHolder(undefined), null);
  assert.equal(certificateHolder({} as PeerCertificate), null);
});
