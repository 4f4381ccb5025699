import assert from "node:assert/strict";
import { test } from "node:test";
import type { DTypeName, TensorId } from "../../worker/engine/native.js";
import {
  assertClose,
  assertSameBitsForAnyThreads,
  native,
  randomArray,
  storedRounding,
  Tensors,
} from "./kernel_support.js";
import { type NormCase, normBackward, normForward, rotate } from "./norms_reference.js";

const EPS = 1e-6;

interface Case {
  N: number;
  H: number;
  d: number;
  x: Float64Array;
  w: Float64Array;
  dy: Float64Array;
  /** null: no rotation. */
  angles: { cos: Float64Array; sin: Float64Array } | null;
}

function makeCase(N: number, H: number, d: number, dtype: DTypeName, rotated: boolean): Case {
  const angles = randomArray(d + 3, "f32", (N * d) / 2, Math.PI);
  return {
    N,
    H,
    d,
    x: randomArray(d, dtype, N * H * d, 2),
    w: randomArray(d + 1, dtype, H * d, 2),
    dy: randomArray(d + 2, dtype, N * H * d),
    angles: rotated
      ? { cos: angles.map((a) => Math.fround(Math.cos(a))), sin: angles.map((a) => Math.fround(Math.sin(a))) }
      : null,
  };
}

const normCase = (c: Case): NormCase => ({
  x: c.x,
  offsets: Int32Array.from([0, c.N]),
  D: c.H * c.d,
  eps: EPS,
  w: c.w,
  modulation: null,
});

function twin(c: Case): { y: Float64Array; dx: Float64Array; dw: Float64Array } {
  const turn = (x: Float64Array, direction: 1 | -1): Float64Array =>
    c.angles === null ? x : rotate(x, c.angles.cos, c.angles.sin, c.H, c.d, direction);
  const { dx, dw } = normBackward(normCase(c), turn(c.dy, -1));
  return { y: turn(normForward(normCase(c)).y, 1), dx, dw };
}

const DW_BEFORE = 2;

function run(
  tensors: Tensors,
  c: Case,
  dtype: DTypeName,
  inPlace: boolean,
): Record<"y" | "dx" | "dw", TensorId> {
  const [x, w, dy] = [tensors.from(dtype, c.x), tensors.from(dtype, c.w), tensors.from(dtype, c.dy)];
  const y = tensors.alloc(dtype, c.x.length);
  const dx = inPlace ? dy : tensors.alloc(dtype, c.x.length);
  const rstd = tensors.alloc("f32", c.N);
  const dw = tensors.alloc("f32", c.H * c.d, DW_BEFORE);
  const cos = c.angles === null ? 0 : tensors.from("f32", c.angles.cos);
  const sin = c.angles === null ? 0 : tensors.from("f32", c.angles.sin);
  native.qkNormRopeForward(y, rstd, x, w, cos, sin, c.N, c.H, c.d, EPS);
  native.qkNormRopeBackward(dx, dw, dy, x, rstd, w, cos, sin, c.N, c.H, c.d);
  return { y, dx, dw };
}

// As for the norms, and two more products for the rotation.
const tolerance = (dtype: DTypeName): number => (dtype === "bf16" ? 1.5 * storedRounding(dtype) : 6e-7);

for (const dtype of ["f32", "bf16"] as const) {
  for (const rotated of [true, false]) {
    test(`qkNormRope matches its twin: ${dtype}, ${rotated ? "rotated" : "not rotated"}, odd sizes`, () => {
      for (const [N, H, d] of [
        [1, 1, 2],
        [3, 5, 6],
        [70, 3, 24],
        [33, 2, 64],
        [5, 2, 72],
        [0, 2, 8],
      ] as const) {
        for (const inPlace of [false, true]) {
          const c = makeCase(N, H, d, dtype, rotated);
          const wanted = twin(c);
          const tensors = new Tensors();
          const found = run(tensors, c, dtype, inPlace);
          const what = `${N}x${H}x${d}${inPlace ? " in place" : ""}`;
          assertClose(tensors.read(found.y), wanted.y, tolerance(dtype), `${what} y`);
          assertClose(tensors.read(found.dx), wanted.dx, tolerance(dtype), `${what} dx`);
          const dw = wanted.dw.map((number) => number + DW_BEFORE);
          assertClose(tensors.read(found.dw), dw, 6e-7, `${what} dw`);
          tensors.release();
        }
      }
    });
  }
}

test("qkNormRope has the same bits with 1, 2 and 4 threads", () => {
  for (const dtype of ["f32", "bf16"] as const) {
    const c = makeCase(200, 3, 24, dtype, true);
    assertSameBitsForAnyThreads((tensors) => Object.values(run(tensors, c, dtype, false)), dtype);
  }
});

/** cos and sin of the reference: rope_split, angles in float64. */
function ropeTwin(grids: number[][], d: number, theta: number): { cos: number[]; sin: number[] } {
  const spatial = 2 * Math.floor((3 * d) / 16);
  const channels = [d - 2 * spatial, spatial, spatial];
  const angles: number[] = [];
  for (const [T, Y, X] of grids as [number, number, number][]) {
    for (let token = 0; token < T * Y * X; token++) {
      const position = [Math.floor(token / (Y * X)), Math.floor(token / X) % Y, token % X];
      for (const [axis, c] of channels.entries()) {
        for (let j = 0; j < c / 2; j++) angles.push((position[axis] as number) * theta ** ((-2 * j) / c));
      }
    }
  }
  return { cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
}

test("ropeTable gives every token the angles of its place in its own sample, whole or cut", () => {
  const grids = [
    [1, 3, 5],
    [4, 2, 2],
    [1, 1, 1],
    [3, 1, 7],
  ];
  const tokens = 15 + 16 + 1 + 21;
  for (const d of [2, 6, 8, 24, 64, 72]) {
    const wanted = ropeTwin(grids, d, 10000);
    for (const [start, count] of [
      [0, tokens],
      [14, 20],
      [31, 1],
      [tokens, 0],
    ] as const) {
      const tensors = new Tensors();
      const [cos, sin] = [tensors.alloc("f32", (count * d) / 2), tensors.alloc("f32", (count * d) / 2)];
      native.ropeTable(cos, sin, Int32Array.from(grids.flat()), start, count, d, 10000);
      for (const [found, all] of [
        [tensors.read(cos), wanted.cos],
        [tensors.read(sin), wanted.sin],
      ] as const) {
        assert.equal(found.length, (count * d) / 2);
        for (const [i, number] of found.entries()) {
          // Rounded once: half a unit in the last place, and a little for another library's cosine.
          const exact = all[(start * d) / 2 + i] as number;
          assert.ok(
            !!(Math.abs(number - exact) <= 2 ** -25 * 1.001),
            `d ${d}, element ${i}: ${number}, want ${exact}`,
          );
        }
      }
      tensors.release();
    }
  }
});

test("ropeTable refuses tokens beyond the grids and empty grids", () => {
  const tensors = new Tensors();
  const [cos, sin] = [tensors.alloc("f32", 12), tensors.alloc("f32", 12)];
  const call = (grids: number[], start: number) => () =>
    native.ropeTable(cos, sin, Int32Array.from(grids), start, 3, 8, 10000);
  assert.throws(call([1, 2, 2], 2), /tokens up to 5 asked, the grids have 4/);
  assert.throws(call([1, 0, 2], 0), /grid 0 is 1 x 0 x 2/);
  tensors.release();
});
