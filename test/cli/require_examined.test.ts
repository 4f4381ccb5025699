import assert from "node:assert/strict";
import { test } from "node:test";
import { requireExamined } from "../../cli/require_examined.js";
import { Diagnosis } from "../../gen/goku/v1/controller.pb.js";

const of = (...verdicts: string[]) =>
  Diagnosis.fromPartial({ done: true, nodes: verdicts.map((verdict, i) => ({ nodeId: `n${i}`, verdict })) });

test("a diagnosis that examined no node is an error, and one that examined some is none", () => {
  assert.throws(() => requireExamined(of()), { code: "NOT_FOUND", message: /: no node has come, want one/ });
  assert.throws(() => requireExamined(of("skipped", "skipped")), {
    code: "NOT_FOUND",
    message: /^Cannot diagnose nodes: skipped 2 of 2 nodes, want one that is connected and free/,
  });
  for (const verdict of ["passed", "failed", "suspect"])
    assert.doesNotThrow(() => requireExamined(of("skipped", verdict)));
});
