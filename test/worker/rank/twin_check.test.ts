import assert from "node:assert/strict";
import { test } from "node:test";
import { Layout } from "../../../job/layout.js";
import { flatUnits } from "../../../job/sharding.js";
import type { CommId, Native } from "../../../worker/engine/native.js";
import { isCompared, oddOnes, placeOf, TwinCheck } from "../../../worker/rank/twin_check.js";

const MIB = 1 << 18; // elements
const spec = (name: string, count: number) => ({ name, shape: [count], count });
const UNITS = flatUnits([
  spec("root.a", 10),
  spec("blocks.0.b", 3 * MIB),
  spec("blocks.0.c", 2 * MIB),
] as never);

test("oddOnes() names whom more than half of all contradict, and nobody of two", () => {
  assert.deepEqual(oddOnes([7, 7]), []);
  assert.deepEqual(oddOnes([7, 8]), []);
  assert.deepEqual(oddOnes([7, 8, 7]), [1]);
  assert.deepEqual(oddOnes([8, 7, 7, 7]), [0]);
  assert.deepEqual(oddOnes([7, 7, 8, 8]), []);
  assert.deepEqual(oddOnes([1, 2, 3]), []);
});

test("isCompared() is true of every 64th snapshot, whatever is between two of them", () => {
  const steps = (every: number) =>
    Array.from({ length: 300 }, (_, step) => step).filter((step) =>
      isCompared(step, { snapshot_every_steps: every }),
    );
  assert.deepEqual(steps(1), [64, 128, 192, 256]);
  assert.deepEqual(steps(4), [256]);
});

test("placeOf() names the tensor and elements of a chunk, in each kind and on each rank of a shard group", () => {
  const at = (chunk: number, rank = 0, layout = "1x1x1") => {
    const { tensor, start, length } = placeOf(chunk, { units: UNITS, layout: Layout.parse(layout), rank });
    return `${tensor} ${start} ${length}`;
  };
  assert.deepEqual(
    [0, 1, 4].map((chunk) => at(chunk)),
    ["model/root.a 0 10", "ema/root.a 0 10", "model/blocks.0.b 0 262144"],
  );
  assert.equal(at(4 + 2), `model/blocks.0.b ${2 * MIB} ${MIB}`);
  assert.equal(at(4 + 3), `model/blocks.0.c 0 ${MIB}`);
  assert.equal(at(4 + 5), `ema/blocks.0.b 0 ${MIB}`);
  // The second of two holds nothing of the root; its half of the block begins in the middle of a tensor.
  assert.equal(at(0, 1, "1x2x1"), `model/blocks.0.b ${2.5 * MIB} ${0.5 * MIB}`);
  assert.throws(() => at(100), RangeError);
});

/** Numbers of this rank put together with those of its twins. */
function fakeNative(others: (call: number, own: Float64Array) => Float64Array[]): Native {
  let calls = 0;
  let held = new Float64Array(0);
  const bytes = () => new Uint8Array(held.buffer, held.byteOffset, held.byteLength);
  return {
    tensorAlloc: (_: number, count: number) => {
      held = new Float64Array(count);
      return 1;
    },
    tensorWrite: (_: number, __: number, from: Uint8Array) => bytes().set(from),
    tensorRead: (_: number, __: number, into: Uint8Array) => into.set(bytes()),
    tensorFree: () => {},
    commWait: () => {},
    allReduceStart: (_: CommId, __: number, op: number) => {
      const all = [held, ...others(calls++, held)];
      held = held.map((_, i) => {
        const values = all.map((one) => one[i]!);
        return op === 1 ? Math.max(...values) : values.reduce((sum, value) => sum + value, 0);
      });
    },
  } as unknown as Native;
}

test("TwinCheck compares each chunk exactly, tells the first that differs once, and when all were the same last", () => {
  const layout = Layout.parse("3x1x1");
  const sums = (change: Record<number, number> = {}) =>
    Uint32Array.from({ length: 24 }, (_, i) => change[i] ?? 0xffffff00 + i);
  let twins = [sums(), sums()];
  const native = fakeNative((_, own) =>
    own.length === 48
      ? twins.map((twin) => Float64Array.from([...twin, ...[...twin].map((value) => -value)]))
      : [Float64Array.of(0, twins[0]![9]!, 0), Float64Array.of(0, 0, twins[1]![9]!)],
  );
  const check = new TwinCheck({ native, comm: 1 as unknown as CommId, layout, rank: 0, units: UNITS });
  assert.equal(check.compare(64, sums()), null);
  assert.equal(check.equalStep, 64);
  twins = [sums({ 9: 0xffffff08 }), sums()];
  assert.deepEqual(check.compare(128, sums()), {
    odd: [1],
    ranks: [0, 1, 2],
    tensor: "ema/blocks.0.b",
    start: 0,
    length: MIB,
    chunks: 1,
  });
  assert.equal(check.equalStep, 64);
  assert.equal(check.compare(192, sums()), null, "it is known");
});
