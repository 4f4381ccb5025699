import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import sharp from "sharp";
import { crc32c, picturesRecord, scalarsRecord, startRecord, versionRecord } from "../../worker/tfevents.js";
import { curve, readTfEvents } from "../support/read_tfevents.js";

test("crc32c() gives the check value of its specification, and 0 of nothing", () => {
  assert.equal(crc32c(Buffer.from("123456789")), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(0)), 0);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa); // RFC 3720, B.4: 32 bytes of zeros
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
});

const TIME = 1_790_000_000.25;
const file = Buffer.concat([
  versionRecord(TIME),
  startRecord(TIME, 1),
  scalarsRecord(TIME, 1, [
    { tag: "train/loss", value: 0.5 },
    { tag: "memory/peak_bytes", value: 3e9 },
  ]),
  scalarsRecord(TIME + 1, 300, [{ tag: "train/loss", value: 0.25 }]),
]);
const later = Buffer.concat([
  versionRecord(TIME + 2),
  startRecord(TIME + 2, 300),
  scalarsRecord(TIME + 3, 300, [{ tag: "train/loss", value: 0.125 }]),
]);

test("event files are read back by a second reader, and a START drops what it supersedes", () => {
  const [version, start, first, last] = readTfEvents(file);
  assert.equal(version!.version, "brain.Event:2");
  assert.deepEqual([start!.start, start!.step], [true, 1]);
  assert.deepEqual([first!.seconds, first!.step], [TIME, 1]);
  assert.deepEqual(
    [...first!.scalars],
    [
      ["train/loss", 0.5],
      ["memory/peak_bytes", 3e9],
    ],
  );
  assert.equal(last!.step, 300);
  assert.deepEqual(curve([readTfEvents(file), readTfEvents(later)], "train/loss"), [
    [1, 0.5],
    [300, 0.125],
  ]);
});

test("a damaged byte is found by the second reader, wherever it is", () => {
  for (let at = 0; at < file.length; at++) {
    const damaged = Buffer.from(file);
    damaged[at]! ^= 0x10;
    assert.throws(() => readTfEvents(damaged), `byte ${at}`);
  }
});

const png = (width: number, height: number, channels: 3 | 4) =>
  sharp({ create: { width, height, channels, background: { r: 200, g: 30, b: 90, alpha: 0.5 } } })
    .png()
    .toBuffer();

test("pictures carry their own size and colours; what is no PNG is refused", async () => {
  const [first, second] = [await png(48, 32, 3), await png(7, 9, 4)];
  const shown = [
    { tag: "samples/1: a red circle", png: first },
    { tag: "samples/2: é", png: second },
  ];
  const [event] = readTfEvents(Buffer.from(picturesRecord(TIME, 40, shown)));
  assert.deepEqual([event!.step, event!.seconds, event!.scalars.size], [40, TIME, 0]);
  assert.deepEqual(
    [...event!.pictures],
    [
      ["samples/1: a red circle", { height: 32, width: 48, colorspace: 3, encoded: first }],
      ["samples/2: é", { height: 9, width: 7, colorspace: 4, encoded: second }],
    ],
  );
  assert.throws(() => picturesRecord(TIME, 40, [{ tag: "x", png: Buffer.alloc(64) }]), RangeError);
});

const PYTHON = process.env.GOKU_TENSORBOARD_PYTHON ?? "python3";
const hasTensorBoard = spawnSync(PYTHON, ["-c", "import tensorboard"]).status === 0;

test("TensorBoard reads the files, the later generation instead of what it computed again", {
  skip: hasTensorBoard ? false : "no tensorboard in python3 (GOKU_TENSORBOARD_PYTHON names another)",
}, async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-board-"));
  try {
    writeFileSync(path.join(folder, "events.out.tfevents.1790000000.node-a.1"), file);
    const shown = picturesRecord(TIME + 3, 300, [
      { tag: "samples/1: a red circle", png: await png(48, 32, 3) },
    ]);
    writeFileSync(
      path.join(folder, "events.out.tfevents.1790000002.node-b.2"),
      Buffer.concat([later, shown]),
    );
    const script = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(sys.argv[1]).Reload()
[picture] = read.Images("samples/1: a red circle")
print(json.dumps([
    [[e.step, e.value] for e in read.Scalars("train/loss")],
    [picture.step, picture.width, picture.height, picture.encoded_image_string[:4].hex()],
]))`;
    const out = execFileSync(PYTHON, ["-c", script, folder], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    });
    assert.deepEqual(JSON.parse(out), [
      [
        [1, 0.5],
        [300, 0.125],
      ],
      [300, 48, 32, "89504e47"],
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
