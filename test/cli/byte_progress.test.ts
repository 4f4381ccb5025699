import assert from "node:assert/strict";
import { test } from "node:test";
import { ByteProgress } from "../../cli/byte_progress.js";
import { VirtualClock } from "../support/virtual_clock.js";

const MIB = 2 ** 20;

/** What a person sees: text goes on where the cursor is, and an erased line is gone. */
class Screen {
  readonly isTTY: boolean;
  /** The line after each write. */
  readonly lines: string[] = [];
  #line = "";

  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }

  write(text: string): void {
    assert.ok(!text.includes("\n"), "a bar keeps to its line");
    const parts = text.split("\r\x1b[2K");
    this.#line = parts.length > 1 ? parts.at(-1)! : this.#line + text;
    this.lines.push(this.#line);
  }
}

function setUp({ isTTY = true, json = false } = {}) {
  const clock = new VirtualClock();
  const screen = new Screen(isTTY);
  return { clock, screen, progress: new ByteProgress({ json }, screen, clock.now) };
}

test("ByteProgress shows a bar with bytes, their mean rate and the time left, and leaves the line empty", async () => {
  const { clock, screen, progress } = setUp();
  const result = await progress.during(async (update) => {
    await clock.advance(2_000);
    update({ bytesDone: 25 * MIB, bytesTotal: 100 * MIB });
    await clock.advance(500);
    update({ bytesDone: 50 * MIB, bytesTotal: 100 * MIB });
    await clock.advance(1_500);
    update({ bytesDone: 100 * MIB, bytesTotal: 100 * MIB });
    return "done";
  });
  assert.equal(result, "done");
  const cells = (full: number) => "█".repeat(full) + "░".repeat(24 - full);
  assert.deepEqual(screen.lines, [
    `${cells(6)} 25.0 MiB of 100.0 MiB  12.5 MiB/s  ETA 6.0 s`,
    `${cells(12)} 50.0 MiB of 100.0 MiB  20.0 MiB/s  ETA 2.5 s`,
    `${cells(24)} 100.0 MiB of 100.0 MiB  25.0 MiB/s  ETA 0 ms`,
    "",
  ]);
});

test("ByteProgress draws ten times a second at most, and always the end", async () => {
  const { clock, screen, progress } = setUp();
  await progress.during(async (update) => {
    for (let mib = 1; mib <= 250; mib++) {
      await clock.advance(1);
      update({ bytesDone: mib * MIB, bytesTotal: 250 * MIB });
    }
  });
  const shown = screen.lines.map((line) => / (\d+)\.0 MiB of/.exec(line)?.[1] ?? line);
  assert.deepEqual(shown, ["1", "101", "201", "250", ""]);
});

test("ByteProgress leaves the line empty for the error of what it ran", async () => {
  const { screen, progress } = setUp();
  const work = progress.during(async (update) => {
    update({ bytesDone: 0, bytesTotal: 4 * MIB });
    throw new Error("disk full");
  });
  await assert.rejects(work, /disk full/);
  assert.deepEqual(screen.lines, [`${"░".repeat(24)} 0 B of 4.0 MiB  0 B/s  ETA -`, ""]);
});

test("ByteProgress of nothing is a bar, too", async () => {
  const { screen, progress } = setUp();
  await progress.during(async (update) => update({ bytesDone: 0, bytesTotal: 0 }));
  assert.equal(screen.lines[0], `${"░".repeat(24)} 0 B of 0 B  0 B/s  ETA -`);
});

for (const [where, options] of [
  ["no terminal", { isTTY: false }],
  ["--json", { json: true }],
] as const) {
  test(`ByteProgress writes nothing with ${where}`, async () => {
    const { clock, screen, progress } = setUp(options);
    await progress.during(async (update) => {
      await clock.advance(1_000);
      update({ bytesDone: MIB, bytesTotal: MIB });
    });
    assert.deepEqual(screen.lines, []);
  });
}
