import assert from "node:assert/strict";
import { test } from "node:test";
import { readBeat } from "../../../worker/program/read_beat.js";

test("readBeat() takes nothing, a step, a loss, and no more of what else is told", () => {
  assert.deepEqual(readBeat(""), { step: null, loss: null });
  assert.deepEqual(readBeat(" \n"), { step: null, loss: null });
  assert.deepEqual(readBeat('{"step": 12, "loss": 1.5, "epoch": 3}\n'), { step: 12, loss: 1.5 });
  assert.deepEqual(readBeat('{"step": 0}'), { step: 0, loss: null });
});

test("readBeat() refuses what is half written or means something else", () => {
  for (const text of [
    '{"step": 1',
    "12",
    "[1]",
    '"x"',
    "null",
    '{"step": -1}',
    '{"step": 1.5}',
    '{"step": "3"}',
    '{"loss": "low"}',
  ])
    assert.equal(readBeat(text), null, text);
});
