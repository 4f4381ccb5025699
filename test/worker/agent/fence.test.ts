import assert from "node:assert/strict";
import { test } from "node:test";
import { type FencedCommand, judgeCommand } from "../../../worker/agent/fence.js";

const fence = { term: 3n, commandId: 10n, generation: 7n };
const command = (change: Partial<FencedCommand>): FencedCommand => ({
  term: 3n,
  commandId: 11n,
  scope: "within",
  generation: 7n,
  ...change,
});
const kind = (change: Partial<FencedCommand>) => judgeCommand(fence, command(change)).kind;

test("judgeCommand() obeys a newer command of the present term and generation, and remembers it", () => {
  assert.deepEqual(judgeCommand(fence, command({})), { kind: "obey", fence: { ...fence, commandId: 11n } });
});

test("judgeCommand() ignores a deposed leader whatever its command id", () => {
  assert.equal(kind({ term: 2n, commandId: 99n }), "ignore");
});

test("judgeCommand() ignores repeats of a command id within a term, and counts anew in a new term", () => {
  assert.equal(kind({ commandId: 10n }), "ignore");
  assert.equal(kind({ commandId: 9n }), "ignore");
  assert.equal(kind({ term: 4n, commandId: 1n }), "obey");
});

test("judgeCommand() moves the generation by Prepare only, never back", () => {
  const forward = judgeCommand(fence, command({ scope: "prepare", generation: 9n }));
  assert.equal(forward.kind === "obey" && forward.fence.generation, 9n);
  assert.equal(kind({ scope: "prepare", generation: 7n }), "obey");
  assert.equal(kind({ scope: "prepare", generation: 6n }), "ignore");
  assert.equal(kind({ scope: "within", generation: 8n }), "ignore");
  assert.equal(kind({ scope: "within", generation: 6n }), "ignore");
});

test("judgeCommand() lets an abort reach its generation and newer announcements of it, not older ones", () => {
  assert.equal(kind({ scope: "until", generation: 7n }), "obey");
  assert.equal(kind({ scope: "until", generation: 8n }), "obey");
  assert.equal(kind({ scope: "until", generation: 6n }), "ignore");
});

test("judgeCommand() does not spend the id of a command it ignored", () => {
  assert.equal(kind({ scope: "within", generation: 8n }), "ignore");
  const prepared = judgeCommand(fence, command({ scope: "prepare", generation: 8n, commandId: 11n }));
  assert.equal(prepared.kind, "obey");
});
