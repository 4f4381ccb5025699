import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { mock, test } from "node:test";
import { steadyNowMs } from "../../../controller/shell/steady_clock.js";

test("steadyNowMs() shows the time of day, and goes on evenly when that is set hours ahead or back", () => {
  const HOUR_MS = 3_600_000;
  const wall = Date.now();
  assert.ok(Math.abs(steadyNowMs() - wall) < HOUR_MS);
  let before = steadyNowMs();
  for (const shiftMs of [HOUR_MS, -2 * HOUR_MS]) {
    const set = mock.method(Date, "now", () => wall + shiftMs);
    const after = steadyNowMs();
    set.mock.restore();
    assert.ok(after >= before && after < before + HOUR_MS / 2, `from ${before} to ${after}`);
    before = after;
  }
});

test("the controller's shell and its store ask no clock that can be set", () => {
  for (const folder of ["controller/shell", "controller/store"])
    for (const name of readdirSync(folder)) {
      const text = readFileSync(path.join(folder, name), "utf8");
      // A deadline of gRPC is a time of day; it is used at once.
      const rest = text.replaceAll(/deadline: Date\.now\(\)/g, "");
      assert.doesNotMatch(rest, /Date\.now|new Date\(\)/, `${name}: use steadyNowMs or Clock`);
    }
});
