import assert from "node:assert/strict";
import { test } from "node:test";
import { followDiagnosis } from "../../cli/follow_diagnosis.js";
import { Diagnosis } from "../../gen/goku/v1/controller.pb.js";

const at = (id: bigint, startedMs: number, done = false) =>
  Diagnosis.fromPartial({ id, startedAt: new Date(startedMs), done });

test("a diagnosis is looked at until it is done", async () => {
  const looks = [at(2n, 1_000), at(2n, 1_000, true)];
  const found = await followDiagnosis(at(2n, 1_000), async () => looks.shift()!, 0);
  assert.deepEqual([found.done, looks.length], [true, 0]);
});

test("the result of another diagnosis is not taken for it: one with another number, or of another leader", async () => {
  for (const other of [at(3n, 1_000, true), at(2n, 9_000, true)])
    await assert.rejects(
      followDiagnosis(at(2n, 1_000), async () => other, 0),
      {
        code: "NOT_FOUND",
        message: /^Cannot tell what diagnosis 2 of 1970-01-01T00:00:01.000Z found: the controller shows /,
      },
    );
});
