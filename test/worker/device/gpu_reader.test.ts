import assert from "node:assert/strict";
import { test } from "node:test";
import { type GpuAnswer, type GpuLimits, GpuReader } from "../../../worker/device/gpu_reader.js";
import { FakeNvml, healthyGpu, nvidiaDriver, uuidOf, withNvml } from "../../support/fake_nvml.js";
import { until } from "../../support/until.js";

/** Reads once, by a process of its own. */
async function read(fake: FakeNvml, limits?: GpuLimits): Promise<GpuAnswer> {
  return await withNvml(fake, async () => {
    const reader = new GpuReader(limits);
    try {
      return await reader.ask();
    } finally {
      reader.kill();
    }
  });
}

async function gpusOf(fake: FakeNvml) {
  const answer = await read(fake);
  assert.ok(answer.kind === "read", JSON.stringify(answer));
  return answer.gpus;
}

test("GpuReader: everything that a GPU tells", async () => {
  const fake = new FakeNvml({ count: 1, ...healthyGpu(0) });
  assert.deepEqual(await gpusOf(fake), [
    {
      lost: false,
      uuid: uuidOf(0),
      name: "NVIDIA H100 80GB HBM3",
      busId: "00000000:3B:00.0",
      temperatureCelsius: 54,
      memoryTemperatureCelsius: 61,
      smClockMhz: 1980,
      memoryClockMhz: 2619,
      clockReasons: 4,
      powerMilliwatts: 612_345,
      powerLimitMilliwatts: 700_000,
      memoryUsedBytes: 30 * 2 ** 30,
      memoryTotalBytes: 80 * 2 ** 30,
      utilizationPercent: 97,
      eccCorrected: 3,
      eccUncorrected: 0,
      retiredPages: null,
      remappedRowsCorrected: 1,
      remappedRowsUncorrected: 2,
      remapPending: false,
      remapFailed: false,
      links: [
        { link: 0, up: true, replays: 0, recoveries: 0, crcErrors: 12 },
        { link: 1, up: true, replays: 1, recoveries: 0, crcErrors: 20 },
      ],
    },
  ]);
});

test("GpuReader: what is not supported, or fails, is left out and never 0", async () => {
  const fake = new FakeNvml({
    count: 1,
    "0.UUID": uuidOf(0),
    "0.PowerUsage": "!3",
    "0.TotalEccErrors.1": "!999",
    "0.FieldValues.82": "!3",
    "0.RetiredPages.0": 0,
    "0.RetiredPages.1": 2,
    "0.RetiredPagesPendingStatus": 1,
    "0.NvLinkState.2": 0,
  });
  const [gpu] = await gpusOf(fake);
  const { uuid, retiredPages, remapPending, lost, links, ...rest } = gpu!;
  assert.deepEqual([uuid, retiredPages, remapPending, lost], [uuidOf(0), 2, true, false]);
  assert.deepEqual(links, [{ link: 2, up: false, replays: null, recoveries: null, crcErrors: null }]);
  for (const [name, value] of Object.entries(rest)) assert.equal(value, null, name);
});

test("GpuReader: a library of an older driver, without some functions, tells the rest", async () => {
  const fake = new FakeNvml({ count: 1, ...healthyGpu(0), "0.ClocksThrottleReasons": 64 }, ["-DOLD_LIBRARY"]);
  const [gpu] = await gpusOf(fake);
  const { clockReasons, remapFailed, remappedRowsUncorrected, temperatureCelsius, eccCorrected } = gpu!;
  assert.deepEqual(
    [clockReasons, remapFailed, remappedRowsUncorrected, temperatureCelsius, eccCorrected],
    [64, null, null, 54, 3],
  );
});

test("GpuReader: a GPU that is lost, before or while it is read, is told so beside those that are well", async () => {
  const fake = new FakeNvml({
    count: 4,
    ...healthyGpu(0),
    ...healthyGpu(1),
    ...healthyGpu(2),
    ...healthyGpu(3),
  });
  fake.tell({ "0.handle": "!15", "1.PowerUsage": "!15", "1.MemoryInfo": "hang", "2.handle": "!4" });
  const gpus = await gpusOf(fake);
  assert.deepEqual(
    gpus.map((gpu) => gpu && [gpu.lost, gpu.uuid, gpu.memoryUsedBytes]),
    [[true, null, null], [true, uuidOf(1), null], null, [false, uuidOf(3), 30 * 2 ** 30]],
    "what is lost is asked nothing more; what this process may not look at is null",
  );
});

test("GpuReader: Xids are told once", async () => {
  const fake = new FakeNvml({ count: 2, ...healthyGpu(0), ...healthyGpu(1), xids: "1 48" });
  await withNvml(fake, async () => {
    const reader = new GpuReader();
    const xids = async () => {
      const answer = await reader.ask();
      return answer.kind === "read" ? answer.xids : answer;
    };
    assert.deepEqual(await xids(), [{ busId: "00000000:4B:00.0", xid: 48 }]);
    fake.tell({ xids: "1 48 0 79" });
    assert.deepEqual(await xids(), [{ busId: "00000000:3B:00.0", xid: 79 }]);
    assert.deepEqual(await xids(), []);
    reader.kill();
    assert.deepEqual(await reader.ask(), { kind: "ended", how: "it was ended" });
  });
});

test("GpuReader: a GPU that does not answer is named, and the process that waits for it is killed", async () => {
  const fake = new FakeNvml({ count: 2, ...healthyGpu(0), ...healthyGpu(1), "1.MemoryInfo": "hang" });
  await withNvml(fake, async () => {
    const reader = new GpuReader({ openMs: 60_000, gpuMs: 2_000 });
    assert.deepEqual(await reader.ask(), { kind: "silent", gpu: 1, limitMs: 2_000 });
    assert.ok(reader.over);
    await until(() => reader.gone);
  });
  fake.tell({ "1.MemoryInfo": "" });
  assert.equal((await gpusOf(fake)).length, 2);
  fake.tell({ count: "hang" });
  const limits = { openMs: 3_000, gpuMs: 2_000 };
  assert.deepEqual(await read(fake, limits), { kind: "silent", gpu: null, limitMs: 3_000 });
});

test("GpuReader: a driver that refuses says why", async () => {
  const why = "Cannot read GPUs by NVML: nvmlInit_v2: Driver Not Loaded (9)";
  assert.deepEqual(await read(new FakeNvml({ init: "!9" })), { kind: "refused", why });
});

test("GpuReader: a machine without NVIDIA's driver has none", { skip: nvidiaDriver }, async () => {
  const reader = new GpuReader();
  assert.deepEqual(await reader.ask(), { kind: "missing" });
  reader.kill();
});
