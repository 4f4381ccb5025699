import assert from "node:assert/strict";
import { test } from "node:test";
import {
  LOSS_FACTOR,
  SPIKE_WINDOW,
  type SpikeNews,
  type SpikeWatch,
  spikeLimit,
  watchSpikes,
} from "../../job/spikes.js";
import { Random } from "../sim/random.js";

const steady = (count: number) => Array.from({ length: count }, (_, i) => (i % 2 ? 0.9 : 1.1));

test("spikeLimit() is three times the median of a calm run, more of a noisy one, and none of a short one", () => {
  assert.equal(spikeLimit(steady(15), 3), null);
  const { limit, median } = spikeLimit(steady(16), 3)!;
  assert.deepEqual([median.toFixed(3), limit.toFixed(3)], ["1.000", "3.000"]);
  const wild = Array.from({ length: 16 }, (_, i) => (i % 2 ? 0.5 : 1.5));
  assert.equal(spikeLimit(wild, 3)!.limit.toFixed(2), (1 + 8 * 1.4826 * 0.5).toFixed(2));
});

/** What is told of values one after another, by index. */
function told(values: readonly number[]): [number, SpikeNews["kind"]][] {
  const watch: SpikeWatch = { values: [], spikes: 0 };
  return values.flatMap((value, i) => {
    const news = watchSpikes(watch, value, LOSS_FACTOR);
    return news === null ? [] : [[i, news.kind] as [number, SpikeNews["kind"]]];
  });
}

test("a spike is told when it begins and when it is over, and does not hide the next one", () => {
  const values = [...steady(20), 9, 9, 9, ...steady(3), 9, 1];
  assert.deepEqual(told(values), [
    [20, "begins"],
    [23, "ends"],
    [26, "begins"],
    [27, "ends"],
  ]);
});

test("what stays high for the length of the window is the new level", () => {
  const high = Array(SPIKE_WINDOW + 20).fill(9);
  assert.deepEqual(told([...steady(20), ...high, 40]), [
    [20, "begins"],
    [20 + SPIKE_WINDOW - 1, "stays"],
    [20 + high.length, "begins"],
  ]);
});

test("200 seeded runs of falling losses with 20 % noise tell nothing", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = new Random(seed);
    const normal = () => Math.sqrt(-2 * Math.log(1 - random.unit())) * Math.cos(2 * Math.PI * random.unit());
    const losses = Array.from({ length: 500 }, (_, i) => (0.3 + 2 / (1 + i / 20)) * Math.exp(0.2 * normal()));
    assert.deepEqual(told(losses), [], `seed ${seed}`);
  }
});
