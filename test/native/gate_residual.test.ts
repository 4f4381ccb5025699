import assert from "node:assert/strict";
import { test } from "node:test";
import type { DTypeName } from "../../worker/engine/native.js";
import {
  assertClose,
  assertSameBitsForAnyThreads,
  native,
  randomArray,
  storedRounding,
  Tensors,
} from "./kernel_support.js";
import { rowSamples } from "./norms_reference.js";

const OFFSETS = Int32Array.from([0, 1, 1, 40, 110, 110]);
const ROWS = 110;
const SAMPLES = OFFSETS.length - 1;

interface Case {
  D: number;
  modWidth: number;
  gateColumn: number;
  x: Float64Array;
  branch: Float64Array;
  dy: Float64Array;
  mod: Float64Array;
}

function makeCase(D: number, x: DTypeName, branch: DTypeName): Case {
  const modWidth = 2 * D + 3;
  return {
    D,
    modWidth,
    gateColumn: D + 3,
    x: randomArray(D, x, ROWS * D),
    branch: randomArray(D + 1, branch, ROWS * D),
    dy: randomArray(D + 2, x, ROWS * D),
    mod: randomArray(D + 3, "f32", SAMPLES * modWidth),
  };
}

const gateOf = (c: Case, sample: number, column: number): number =>
  c.mod[sample * c.modWidth + c.gateColumn + column] as number;

/** y = x + gate * branch and its gradients, in float64. */
function twin(c: Case): { y: Float64Array; dbranch: Float64Array; dgate: Float64Array } {
  const y = new Float64Array(c.x.length);
  const dbranch = new Float64Array(c.x.length);
  const dgate = new Float64Array(SAMPLES * c.D);
  for (const [row, s] of rowSamples(OFFSETS).entries()) {
    for (let i = 0; i < c.D; i++) {
      const n = row * c.D + i;
      y[n] = (c.x[n] as number) + gateOf(c, s, i) * (c.branch[n] as number);
      dbranch[n] = gateOf(c, s, i) * (c.dy[n] as number);
      dgate[s * c.D + i] = (dgate[s * c.D + i] as number) + (c.dy[n] as number) * (c.branch[n] as number);
    }
  }
  return { y, dbranch, dgate };
}

// One fused multiply-add and one rounding on the way out.
const tolerance = (dtype: DTypeName): number => (dtype === "bf16" ? 1.5 * storedRounding(dtype) : 2e-7);

// At most 32 rows are summed in fp32, then f64: 2^-24 * sqrt(32) of the terms' size, and their sum may be a fifth of it.
const DGATE_TOLERANCE = 2e-6;

for (const [x, branch] of [
  ["f32", "f32"],
  ["bf16", "bf16"],
  ["f32", "bf16"],
  ["bf16", "f32"],
] as const) {
  test(`gated residual matches its twin at odd widths: x ${x}, branch ${branch}`, () => {
    for (const D of [1, 7, 8, 33, 128]) {
      const c = makeCase(D, x, branch);
      const wanted = twin(c);
      const tensors = new Tensors();
      const [mod, added] = [tensors.from("f32", c.mod), tensors.from(branch, c.branch)];
      const y = tensors.alloc(x, c.x.length);
      const place = [c.modWidth, c.gateColumn, OFFSETS, D] as const;
      native.gateResidualForward(y, tensors.from(x, c.x), added, mod, ...place);
      assertClose(tensors.read(y), wanted.y, tolerance(x), `D ${D} y`);

      const dbranch = tensors.alloc(branch, c.x.length);
      const dmod = tensors.alloc("f32", c.mod.length, 777);
      native.gateResidualBackward(dbranch, dmod, tensors.from(x, c.dy), added, mod, ...place);
      assertClose(tensors.read(dbranch), wanted.dbranch, tolerance(branch), `D ${D} dbranch`);
      const columns = tensors.read(dmod);
      const isGate = (_: number, i: number): boolean =>
        i % c.modWidth >= c.gateColumn && i % c.modWidth < c.gateColumn + D;
      assertClose(columns.filter(isGate), wanted.dgate, DGATE_TOLERANCE, `D ${D} dgate`);
      assert.ok(
        columns.filter((number, i) => !isGate(number, i)).every((number) => number === 777),
        "other columns of dmod stay",
      );
      tensors.release();
    }
  });
}

test("gated residual may write over its input", () => {
  const c = makeCase(24, "f32", "f32");
  const tensors = new Tensors();
  const [x, branch, mod] = [
    tensors.from("f32", c.x),
    tensors.from("f32", c.branch),
    tensors.from("f32", c.mod),
  ];
  native.gateResidualForward(x, x, branch, mod, c.modWidth, c.gateColumn, OFFSETS, 24);
  assertClose(tensors.read(x), twin(c).y, 2e-7, "y in place of x");
  const dy = tensors.from("f32", c.dy);
  const dmod = tensors.alloc("f32", c.mod.length);
  native.gateResidualBackward(dy, dmod, dy, branch, mod, c.modWidth, c.gateColumn, OFFSETS, 24);
  assertClose(tensors.read(dy), twin(c).dbranch, 2e-7, "dbranch in place of dy");
  tensors.release();
});

test("gated residual has the same bits with 1, 2 and 4 threads", () => {
  const c = makeCase(129, "bf16", "f32");
  assertSameBitsForAnyThreads((tensors) => {
    const [branch, mod] = [tensors.from("f32", c.branch), tensors.from("f32", c.mod)];
    const [y, dbranch] = [tensors.alloc("bf16", c.x.length), tensors.alloc("f32", c.x.length)];
    const dmod = tensors.alloc("f32", c.mod.length);
    const place = [c.modWidth, c.gateColumn, OFFSETS, c.D] as const;
    native.gateResidualForward(y, tensors.from("bf16", c.x), branch, mod, ...place);
    native.gateResidualBackward(dbranch, dmod, tensors.from("bf16", c.dy), branch, mod, ...place);
    return [y, dbranch, dmod];
  }, "gate");
});
