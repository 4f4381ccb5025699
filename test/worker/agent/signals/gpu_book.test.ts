import assert from "node:assert/strict";
import { test } from "node:test";
import { GpuBook } from "../../../../worker/agent/signals/gpu_book.js";
import type { GpuReading } from "../../../../worker/engine/native.js";

/** One that tells what is given, and nothing else. */
function gpu(told: Partial<GpuReading>): GpuReading {
  return {
    lost: false,
    uuid: null,
    name: null,
    busId: null,
    temperatureCelsius: null,
    memoryTemperatureCelsius: null,
    smClockMhz: null,
    memoryClockMhz: null,
    clockReasons: null,
    powerMilliwatts: null,
    powerLimitMilliwatts: null,
    memoryUsedBytes: null,
    memoryTotalBytes: null,
    utilizationPercent: null,
    eccCorrected: null,
    eccUncorrected: null,
    retiredPages: null,
    remappedRowsCorrected: null,
    remappedRowsUncorrected: null,
    remapPending: null,
    remapFailed: null,
    links: [],
    ...told,
  };
}

const lost = gpu({ lost: true });

/** State of every GPU: what it is called, and whether it is up. */
const states = (book: GpuBook, gpus: readonly (GpuReading | null)[]) =>
  book
    .take(gpus)
    .machine.links.filter(({ link }) => link === "gpu_lost")
    .map(({ device, up }) => [device, up]);

test("GpuBook: a GPU's errors are counters of the machine; what it does not tell is none", () => {
  const book = new GpuBook(undefined);
  const links = [
    { link: 0, up: true, replays: 1, recoveries: 2, crcErrors: 30 },
    { link: 4, up: false, replays: null, recoveries: null, crcErrors: null },
  ];
  const told = { eccUncorrected: 2, remapPending: true, remapFailed: false };
  const { machine } = book.take([
    gpu({ uuid: "GPU-a", ...told, links }),
    gpu({ uuid: "GPU-b", eccCorrected: 7 }),
  ]);
  assert.deepEqual(machine.counts, [
    { counter: "gpu_ecc_uncorrected", device: "GPU 0 (GPU-a)", value: 2 },
    { counter: "gpu_remap_pending", device: "GPU 0 (GPU-a)", value: 1 },
    { counter: "gpu_remap_failed", device: "GPU 0 (GPU-a)", value: 0 },
    { counter: "nvlink_crc_errors", device: "GPU 0 (GPU-a)", value: 30 },
    { counter: "nvlink_retries", device: "GPU 0 (GPU-a)", value: 3 },
    { counter: "gpu_ecc_corrected", device: "GPU 1 (GPU-b)", value: 7 },
  ]);
  assert.deepEqual(machine.links, [
    { link: "gpu_lost", device: "GPU 0 (GPU-a)", up: true },
    { link: "nvlink_down", device: "GPU 0 (GPU-a) link 0", up: true },
    { link: "nvlink_down", device: "GPU 0 (GPU-a) link 4", up: false },
    { link: "gpu_lost", device: "GPU 1 (GPU-b)", up: true },
  ]);
});

test("GpuBook: readings in which heat or the power supply held a GPU back are counted", () => {
  const book = new GpuBook(undefined);
  const counted = [0x1, 0x20, 0x40 | 0x8, 0x80 | 0x8, 0x4].map((clockReasons) =>
    book.take([gpu({ uuid: "GPU-a", clockReasons })]).machine.counts.map(({ value }) => value),
  );
  assert.deepEqual(counted, [
    [0, 0],
    [1, 0],
    [2, 0],
    [2, 1],
    [2, 1],
  ]);
});

test("GpuBook: one that is lost, or listed no more, keeps its name; others keep their index", () => {
  const book = new GpuBook(undefined);
  const [a, b, c] = ["GPU-a", "GPU-b", "GPU-c"].map((uuid) => gpu({ uuid }));
  assert.deepEqual(states(book, [a!, b!, c!]), [
    ["GPU 0 (GPU-a)", true],
    ["GPU 1 (GPU-b)", true],
    ["GPU 2 (GPU-c)", true],
  ]);
  const withoutB = [
    ["GPU 0 (GPU-a)", true],
    ["GPU 1 (GPU-b)", false],
    ["GPU 2 (GPU-c)", true],
  ];
  assert.deepEqual(states(book, [a!, lost, c!]), withoutB);
  assert.deepEqual(states(book, [a!, c!]), withoutB, "the driver was opened anew, without it");
  assert.equal(book.labelAt(1), "GPU 2 (GPU-c)");
  const { watched } = book.take([a!, c!]);
  assert.deepEqual(
    watched.map(({ index, uuid, reading }) => [index, uuid, reading?.uuid]),
    [
      [0, "GPU-a", "GPU-a"],
      [1, "GPU-b", undefined],
      [2, "GPU-c", "GPU-c"],
    ],
  );
});

test("GpuBook: one that was lost before it told its name is told by its place, until it does", () => {
  const book = new GpuBook(undefined);
  assert.deepEqual(states(book, [lost]), [["GPU 0", false]]);
  assert.deepEqual(states(book, [gpu({ uuid: "GPU-a" })]), [["GPU 0 (GPU-a)", true]]);
});

test("GpuBook: GPUs that the agent does not see are somebody else's affair", () => {
  const book = new GpuBook("2,GPU-a");
  const gpus = [gpu({ uuid: "GPU-a" }), gpu({ uuid: "GPU-b" }), gpu({ uuid: "GPU-c" })];
  assert.deepEqual(states(book, [...gpus, null]), [
    ["GPU 1 (GPU-a)", true],
    ["GPU 0 (GPU-c)", true],
  ]);
  assert.deepEqual(
    states(book, [lost, gpus[1]!, gpus[2]!]),
    [
      ["GPU 1 (GPU-a)", false],
      ["GPU 0 (GPU-c)", true],
    ],
    "its UUID is remembered",
  );
});
