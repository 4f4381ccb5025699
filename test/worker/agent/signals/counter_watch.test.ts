import assert from "node:assert/strict";
import { test } from "node:test";
import type { CounterName, LinkName } from "../../../../job/signals/counters.js";
import { CounterWatch } from "../../../../worker/agent/signals/counter_watch.js";
import type { MachineReading } from "../../../../worker/agent/signals/read_counters.js";

const counts = (...rows: [CounterName, string, number][]): MachineReading => ({
  counts: rows.map(([counter, device, value]) => ({ counter, device, value })),
  links: [],
});
const links = (...rows: [LinkName, string, boolean][]): MachineReading => ({
  counts: [],
  links: rows.map(([link, device, up]) => ({ link, device, up })),
});

test("CounterWatch: what has been counted before it looked is nobody's news", () => {
  const watch = new CounterWatch();
  const { signs, grown } = watch.take(counts(["memory_uncorrectable", "mc0", 7]), 0);
  assert.deepEqual([signs, [...grown], [...watch.perMinute]], [[], [], []]);
});

test("CounterWatch: one error of memory that could not be corrected is told, with its controller", () => {
  const watch = new CounterWatch();
  watch.take(counts(["memory_uncorrectable", "mc0", 7], ["memory_uncorrectable", "mc1", 0]), 0);
  const next = watch.take(
    counts(["memory_uncorrectable", "mc0", 7], ["memory_uncorrectable", "mc1", 1]),
    5_000,
  );
  assert.deepEqual(next.signs, [
    { kind: "counter.memory_uncorrectable", device: "mc1", text: "grew by 1 in a minute" },
  ]);
  assert.deepEqual([...next.grown], [["memory_uncorrectable", 1]]);
});

test("CounterWatch: a storm is told once above its limit in a minute, and again after a calm", () => {
  const watch = new CounterWatch();
  let value = 0;
  const told: number[] = [];
  const pass = (seconds: number, perReading: number, from: number) => {
    for (let at = from; at < from + seconds; at += 5) {
      value += perReading;
      const { signs } = watch.take(counts(["memory_correctable", "mc0", value]), 1000 * at);
      if (signs.length > 0) told.push(at);
    }
    return from + seconds;
  };
  let at = pass(120, 5, 0); // 60 a minute is not above 60
  assert.deepEqual(told, []);
  at = pass(120, 6, at);
  assert.equal(told.length, 1);
  assert.equal(watch.perMinute.get("memory_correctable"), 72);
  at = pass(120, 4, at); // below the limit, above half of it
  at = pass(60, 6, at);
  assert.equal(told.length, 1, "it has not calmed down");
  at = pass(120, 0, at);
  assert.deepEqual([...watch.perMinute], []);
  pass(120, 6, at);
  assert.equal(told.length, 2);
});

test("CounterWatch: a counter that begins anew counts from there", () => {
  const watch = new CounterWatch();
  watch.take(counts(["ib_link_downed", "mlx5_0/1", 5]), 0);
  assert.deepEqual(watch.take(counts(["ib_link_downed", "mlx5_0/1", 0]), 5_000).signs, []);
  assert.equal(watch.take(counts(["ib_link_downed", "mlx5_0/1", 1]), 10_000).signs.length, 1);
});

test("CounterWatch: a GPU that is lost from the beginning is told in the second reading, a NVLink that never was up is not", () => {
  const watch = new CounterWatch();
  const told = [0, 1, 2].map((i) => {
    const reading = links(["gpu_lost", "GPU 0", false], ["nvlink_down", "GPU 1 link 4", false]);
    return watch.take(reading, 10_000 * i).signs.map(({ kind, device }) => `${kind} ${device}`);
  });
  assert.deepEqual(told, [[], ["counter.gpu_lost GPU 0"], []]);
});

test("CounterWatch: a link that was up and is down in two readings is told once; one that never was up is not", () => {
  const watch = new CounterWatch();
  const told = [true, false, true, false, false, false, true, false, false].map((up, i) => {
    const reading = links(["link_down", "eth0", up], ["ib_down", "mlx5_1/1", false]);
    return watch.take(reading, 5_000 * i).signs.map(({ kind, device }) => `${kind} ${device}`);
  });
  const down = ["counter.link_down eth0"];
  assert.deepEqual(told, [[], [], [], [], down, [], [], [], down]);
});
