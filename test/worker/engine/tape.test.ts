import assert from "node:assert/strict";
import { test } from "node:test";
import { loadNative } from "../../../worker/engine/load_native.js";
import { linear, linearGelu } from "../../../worker/engine/operations/linear.js";
import { addResidual } from "../../../worker/engine/operations/residual.js";
import { rmsNorm } from "../../../worker/engine/operations/rms_norm.js";
import { silu } from "../../../worker/engine/operations/silu.js";
import type { Parameter } from "../../../worker/engine/parameter.js";
import { Remake, Tape, Value } from "../../../worker/engine/tape.js";
import { Arena, readFloats, type Tensor } from "../../../worker/engine/tensor.js";

const native = loadNative();

/** A parameter with its gradient, both alive until closed. */
class TestParameter implements Parameter {
  readonly name = "test";
  readonly shape: readonly number[];
  private readonly value: Tensor;
  private readonly slope: Tensor;

  constructor(arena: Arena, values: number[], ...shape: number[]) {
    this.shape = shape;
    this.value = arena.from(Float32Array.from(values), "f32", ...shape);
    this.slope = arena.zeros("f32", ...shape);
  }

  weight(): Tensor {
    return this.value;
  }

  gradient(): Tensor {
    return this.slope;
  }

  close(): void {
    this.value.free();
    this.slope.free();
  }
}

/** Same numbers for every run: a 32-bit linear congruential generator in [-1, 1). */
function numbers(count: number, seed: number): number[] {
  let state = seed >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

test("Tape frees everything by the end of backward", () => {
  const arena = new Arena(native);
  const before = native.memoryStats().liveBytes;
  const w1 = new TestParameter(arena, numbers(6 * 4, 1), 6, 4);
  const b1 = new TestParameter(arena, numbers(6, 2), 6);
  const w2 = new TestParameter(arena, numbers(4 * 6, 3), 4, 6);
  const x = new Value(arena.from(Float32Array.from(numbers(3 * 4, 4)), "f32", 3, 4), true);
  const tape = new Tape(arena, { recording: true, frugal: true });
  const out = tape.scope(() => {
    const branch = linear(tape, linearGelu(tape, x, w1, b1, "f32"), w2, null, "f32");
    return addResidual(tape, x, branch);
  });
  out.giveGrad(arena, arena.from(new Float32Array(12).fill(1), "f32", 3, 4));
  out.tensor.free();
  tape.backward();
  x.takeGrad().free();
  x.tensor.free();
  for (const parameter of [w1, b1, w2]) parameter.close();
  assert.equal(arena.live, 0);
  assert.equal(native.memoryStats().liveBytes, before);
});

test("a residual's gradient reaches its branch unspoilt by what is added to the stream later", () => {
  const arena = new Arena(native);
  const weight = new TestParameter(arena, [2, 0, 0, 3], 2, 2);
  const x = new Value(arena.from(Float32Array.of(1, 1), "f32", 1, 2), true);
  const tape = new Tape(arena, { recording: true, frugal: true });
  // y = x + W x, so dx = dy + W^T dy and dW = dy x^T, whatever the order in which both reach dx.
  const out = tape.scope(() => addResidual(tape, x, linear(tape, x, weight, null, "f32")));
  out.giveGrad(arena, arena.from(Float32Array.of(1, 10), "f32", 1, 2));
  tape.backward();
  const dx = x.takeGrad();
  assert.deepEqual([...readFloats(native, dx)], [3, 40]);
  assert.deepEqual([...readFloats(native, weight.gradient())], [1, 1, 10, 10]);
  arena.freeAll();
});

test("Value copies a shared gradient before it adds to it", () => {
  const arena = new Arena(native);
  const value = new Value(arena.from(Float32Array.of(0, 0), "f32", 2), true);
  const shared = arena.from(Float32Array.of(1, 2), "f32", 2);
  value.giveGrad(arena, shared.retain());
  value.giveGrad(arena, arena.from(Float32Array.of(10, 20), "f32", 2));
  assert.deepEqual([...readFloats(native, shared)], [1, 2]);
  const sum = value.takeGrad();
  assert.deepEqual([...readFloats(native, sum)], [11, 22]);
  arena.freeAll();
});

test("a cheap value is made once for all its users and freed with the last", () => {
  const arena = new Arena(native);
  let made = 0;
  const remake = new Remake(() => {
    made++;
    return arena.zeros("f32", 4);
  });
  remake.retain().retain();
  assert.equal(remake.use(), remake.use());
  assert.equal(made, 1);
  remake.free();
  assert.equal(arena.live, 1);
  remake.free();
  assert.equal(arena.live, 0);
});

test("gradients through norm, activation and product agree with finite differences", () => {
  const arena = new Arena(native);
  const rows = 3;
  const width = 5;
  const offsets = Int32Array.of(0, 1, 3);
  const norm = new TestParameter(arena, numbers(width, 7), width);
  const weight = new TestParameter(arena, numbers(2 * width, 8), 2, width);
  const start = Float32Array.from(numbers(rows * width, 9));
  const slope = Float32Array.from(numbers(rows * 2, 10));
  const run = (input: Float32Array, recording: boolean) => {
    const tape = new Tape(arena, { recording, frugal: true });
    const x = new Value(arena.from(input, "f32", rows, width), true);
    const out = tape.scope(() =>
      linear(tape, silu(tape, rmsNorm(tape, x, norm, offsets, 1e-6)), weight, null, "f32"),
    );
    return { tape, x, out };
  };
  const loss = (input: Float32Array) => {
    const { out } = run(input, false);
    return readFloats(native, out.tensor).reduce((sum, value, i) => sum + value * slope[i]!, 0);
  };
  const { tape, x, out } = run(start, true);
  out.giveGrad(arena, arena.from(slope, "f32", rows, 2));
  tape.backward();
  const gradient = readFloats(native, x.takeGrad());
  const h = 1e-2;
  for (let i = 0; i < start.length; i++) {
    const up = Float32Array.from(start);
    const down = Float32Array.from(start);
    up[i]! += h;
    down[i]! -= h;
    const measured = (loss(up) - loss(down)) / (up[i]! - down[i]!);
    // Central differences of float32 sums: error about h^2 (curvature near 1) plus 1e-7 / h.
    assert.ok(Math.abs(measured - gradient[i]!) <= 2e-3, `element ${i}: ${gradient[i]} against ${measured}`);
  }
  arena.freeAll();
});

test("Tensor refuses a second free and a retain after free", () => {
  const arena = new Arena(native);
  const tensor = arena.alloc("f32", 3);
  tensor.free();
  assert.throws(() => tensor.free(), /freed already/);
  assert.throws(() => tensor.retain(), /is freed/);
});

test("Arena.freeAll() frees what an error left behind", () => {
  const before = native.memoryStats().liveTensors;
  const arena = new Arena(native);
  arena.alloc("f32", 3).retain();
  arena.view(arena.alloc("bf16", 8), 2, 4);
  arena.freeAll();
  assert.equal(arena.live, 0);
  assert.equal(native.memoryStats().liveTensors, before);
});
