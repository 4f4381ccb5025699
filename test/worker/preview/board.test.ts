import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import sharp from "sharp";
import { openStorage } from "../../../checkpoint/storage/storage.js";
import { boardTag, writeBoard } from "../../../worker/preview/board.js";
import { readTfEvents } from "../../support/read_tfevents.js";

const root = mkdtempSync(path.join(tmpdir(), "goku-board-"));
after(() => rmSync(root, { recursive: true, force: true }));
const folder = path.join(root, "tensorboard/previews");
const filesOf = () =>
  readdirSync(folder)
    .sort()
    .map((name) => readTfEvents(readFileSync(path.join(folder, name))));

test("writeBoard() adds a file for each preview, the newest last whatever the clock says, and keeps the newest", async () => {
  const storage = openStorage(`file://${root}`);
  const png = await sharp({ create: { width: 8, height: 4, channels: 3, background: "#808080" } })
    .png()
    .toBuffer();
  const draw = (generation: string, step: number, seconds: number) =>
    writeBoard(storage, { state: { generation, step }, seconds }, [{ tag: boardTag(0, "a circle"), png }], 2);
  await draw("1", 40, 1_790_000_000.5);
  await draw("1", 80, 1_790_000_010);
  // Another node, whose clock is behind, comes to the step again.
  await draw("2", 80, 1_789_999_000);
  const files = filesOf();
  assert.equal(files.length, 2);
  for (const [version, start, shown] of files) {
    assert.equal(version!.version, "brain.Event:2");
    assert.deepEqual([start!.start, start!.step], [true, 80]);
    assert.deepEqual([...shown!.pictures.keys()], ["samples/1: a circle"]);
    assert.equal(shown!.pictures.get("samples/1: a circle")!.width, 8);
  }
  assert.deepEqual(
    files.map((events) => events[2]!.seconds),
    [1_790_000_010, 1_789_999_000],
  );
});

test("boardTag() numbers prompts, keeps them on one line and short", () => {
  assert.equal(boardTag(1, "a red\n circle"), "samples/2: a red circle");
  assert.equal([...boardTag(0, "\u{1f600}".repeat(200))].length, 80 + "samples/1: ".length);
});
