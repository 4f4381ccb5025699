import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { decodePage } from "../../../worker/agent/progress_reader.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { Progress } from "../../../worker/progress.js";
import { FormingBeat } from "../../../worker/rank/forming_beat.js";

test("FormingBeat changes the progress page each second until it ends, and never twice at a time", () => {
  mock.timers.enable({ apis: ["setInterval"] });
  try {
    const page = new Uint8Array(PAGE_BYTES);
    const progress = new Progress(page);
    const beat = new FormingBeat();
    const count = () => decodePage(Buffer.from(page)).microStep;
    beat.begin(progress);
    mock.timers.tick(3_000);
    assert.equal(count(), 3);
    beat.begin(progress);
    mock.timers.tick(2_000);
    assert.equal(count(), 5);
    beat.end();
    mock.timers.tick(5_000);
    assert.equal(count(), 5);
  } finally {
    mock.timers.reset();
  }
});
