import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import {
  crc32c,
  scalarsRecord,
  startRecord,
  versionRecord,
} from "../../../../worker/agent/run_record/tfevents.js";
import { curve, readTfEvents } from "../../../support/read_tfevents.js";

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

const PYTHON = process.env.GOKU_TENSORBOARD_PYTHON ?? "python3";
const hasTensorBoard = spawnSync(PYTHON, ["-c", "import tensorboard"]).status === 0;

test("TensorBoard reads the files, the later generation instead of what it computed again", {
  skip: hasTensorBoard ? false : "no tensorboard in python3 (GOKU_TENSORBOARD_PYTHON names another)",
}, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-board-"));
  try {
    writeFileSync(path.join(folder, "events.out.tfevents.1790000000.node-a.1"), file);
    writeFileSync(path.join(folder, "events.out.tfevents.1790000002.node-b.2"), later);
    const script = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(sys.argv[1]).Reload()
print(json.dumps([[e.step, e.value] for e in read.Scalars("train/loss")]))`;
    const out = execFileSync(PYTHON, ["-c", script, folder], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    });
    assert.deepEqual(JSON.parse(out), [
      [1, 0.5],
      [300, 0.125],
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
