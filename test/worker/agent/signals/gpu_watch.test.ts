import assert from "node:assert/strict";
import { test } from "node:test";
import { pino } from "pino";
import { GpuWatch } from "../../../../worker/agent/signals/gpu_watch.js";
import type { ReadSign } from "../../../../worker/agent/signals/log_reader.js";
import type { MachineReading } from "../../../../worker/agent/signals/read_counters.js";
import { FakeNvml, healthyGpu, nvidiaDriver, uuidOf, withNvml } from "../../../support/fake_nvml.js";
import { until } from "../../../support/until.js";

interface Watched {
  watch: GpuWatch;
  readings: MachineReading[];
  signs: ReadSign[];
  lines: string[];
}

async function watching(
  body: (watched: Watched) => Promise<void>,
  { wantsXids = false, gpuMs = 60_000 } = {},
): Promise<void> {
  const readings: MachineReading[] = [];
  const signs: ReadSign[] = [];
  const lines: string[] = [];
  const watch = new GpuWatch({
    log: pino({}, { write: (line: string) => lines.push(line) }),
    read: (machine) => readings.push(machine),
    found: (found) => signs.push(...found),
    wantsXids: () => wantsXids,
    everyMs: 10,
    limits: { openMs: 60_000, gpuMs },
  });
  watch.start();
  try {
    await body({ watch, readings, signs, lines });
  } finally {
    watch.close();
  }
}

test("GpuWatch: a GPU that does not answer is a sign in itself; what it told last is shown no more, until it answers", async () => {
  const fake = new FakeNvml({ count: 2, ...healthyGpu(0), ...healthyGpu(1) });
  await withNvml(fake, () =>
    watching(
      async ({ watch, readings, signs }) => {
        await until(() => readings.length >= 2);
        assert.deepEqual(
          watch.watched.map(({ index, uuid, reading }) => [index, uuid, reading?.powerMilliwatts]),
          [
            [0, uuidOf(0), 612_345],
            [1, uuidOf(1), 612_345],
          ],
        );
        assert.deepEqual(signs, []);
        fake.tell({ "1.PowerUsage": "hang" });
        await until(() => signs.length >= 2);
        assert.deepEqual(signs[0], {
          kind: "counter.gpu_silent",
          device: `GPU 1 (${uuidOf(1)})`,
          text: "has not answered for 2 s",
        });
        assert.deepEqual(
          watch.watched.map(({ index, reading }) => [index, reading]),
          [
            [0, null],
            [1, null],
          ],
        );
        fake.tell({ "1.PowerUsage": 250_000 });
        await until(() => watch.watched[1]?.reading?.powerMilliwatts === 250_000);
      },
      { gpuMs: 2_000 },
    ),
  );
});

test("GpuWatch: Xids are told as the kernel tells them, where nobody reads the kernel's log", async () => {
  const fake = new FakeNvml({ count: 1, ...healthyGpu(0), xids: "0 79" });
  await withNvml(fake, async () => {
    await watching(
      async ({ signs }) => {
        await until(() => signs.length > 0);
        assert.deepEqual(signs, [{ kind: "xid.79", device: "0000:3b:00", text: "Xid 79, as NVML tells it" }]);
      },
      { wantsXids: true },
    );
    await watching(async ({ readings, signs }) => {
      await until(() => readings.length >= 2);
      assert.deepEqual(signs, []);
    });
  });
});

test("GpuWatch: a driver that refuses is told once, and asked again", async () => {
  await withNvml(new FakeNvml({ init: "!9" }), () =>
    watching(async ({ lines, watch }) => {
      await until(() => lines.length > 0);
      const { level, why } = JSON.parse(lines[0]!) as { level: number; why: string };
      assert.deepEqual([level, why], [40, "Cannot read GPUs by NVML: nvmlInit_v2: Driver Not Loaded (9)"]);
      assert.deepEqual(watch.watched, []);
    }),
  );
});

test("GpuWatch: a machine without NVIDIA's driver lacks nothing: it is said once", {
  skip: nvidiaDriver,
}, async () => {
  await watching(async ({ lines }) => {
    await until(() => lines.length > 0);
    const { level, msg } = JSON.parse(lines[0]!) as { level: number; msg: string };
    assert.deepEqual(
      [level, msg, lines.length],
      [30, "no GPU is watched: there is no libnvidia-ml.so.1, which comes with NVIDIA's driver", 1],
    );
  });
});
