import assert from "node:assert/strict";
import { test } from "node:test";
import { admitNode } from "../../../controller/core/admit_node.js";
import { deepEqual } from "../../../controller/core/deep_equal.js";
import { failureClass, knownCode } from "../../../controller/core/failure_class.js";
import { backoffMs } from "../../../controller/core/recover.js";
import { ERRORS, type ErrorCode } from "../../../job/errors.js";

const hello = { nodeId: "n1", incarnation: "i1", version: "1.4.0", slots: 2 };
test("admitNode() takes the same major version and refuses another", () => {
  const admit = (version: string) =>
    admitNode({ hello: { ...hello, version }, known: null, controllerVersion: "1.2.3" });
  assert.equal(admit("1.9.0").kind, "admit");
  const refused = admit("2.0.0");
  assert.equal(refused.kind, "refuse");
  assert.match(
    refused.reason,
    /its version is "2\.0\.0", this controller is 1\.2\.3, install the same major version/,
  );
  assert.equal(admit("").kind, "refuse");
});

test("admitNode() tells a return from a replacement", () => {
  const change = (known: string | null) => {
    const admission = admitNode({ hello, known, controllerVersion: "1.0.0" });
    return admission.kind === "admit" && admission.change;
  };
  assert.deepEqual([change(null), change("i1"), change("i0")], ["new", "returned", "replaced"]);
});

test("backoffMs() is nothing first, then doubles up to its bound", () => {
  const wait = (attempts: number) => backoffMs({ attempts, firstMs: 500, maxMs: 3_000 });
  assert.deepEqual([0, 1, 2, 3, 4, 60].map(wait), [0, 500, 1_000, 2_000, 3_000, 3_000]);
});

test("failureClass() gives up on what would only repeat itself", () => {
  const all = Object.keys(ERRORS) as ErrorCode[];
  const of = (kind: string) => all.filter((code) => failureClass(code) === kind);
  assert.deepEqual(of("source"), ["NOT_FOUND", "CHECKPOINT_CORRUPT", "SNAPSHOT_MISSING"]);
  assert.ok(of("fatal").includes("DATA_EMPTY") && of("fatal").includes("CHECKPOINT_MISMATCH"));
  assert.ok(of("fatal").every((code) => !ERRORS[code].retriable));
  assert.ok(of("member").includes("COMM_PEER_DIED") && of("member").includes("INTERNAL"));
});

test("knownCode() keeps names of the catalogue, and takes others for INTERNAL", () => {
  assert.equal(knownCode("DATA_EMPTY"), "DATA_EMPTY");
  assert.equal(knownCode("toString"), "INTERNAL");
});

const pairs: [a: unknown, b: unknown, equal: boolean][] = [
  [{ a: 1, b: [1, { c: null }] }, { b: [1, { c: null }], a: 1 }, true],
  [{ a: 1 }, { a: 1, b: undefined }, false],
  [[1, 2], [2, 1], false],
  [[], {}, false],
  [null, {}, false],
  ["x", "x", true],
];
test("deepEqual() compares plain values whatever the order of keys", () => {
  for (const [a, b, equal] of pairs) assert.equal(deepEqual(a, b), equal, JSON.stringify([a, b]));
});
