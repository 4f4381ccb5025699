import assert from "node:assert/strict";
import { test } from "node:test";
import type { DTypeName, TensorId } from "../../worker/engine/native.js";
import {
  assertClose,
  assertSameBitsForAnyThreads,
  native,
  randomArray,
  representable,
  storedRounding,
  Tensors,
} from "./kernel_support.js";
import { finiteDifference, type NormCase, normBackward, normForward } from "./norms_reference.js";

/** Samples of 1, 0, 2, 70 (three blocks of rows) and 0 rows. */
const OFFSETS = Int32Array.from([0, 1, 1, 3, 73, 73]);
const EPS = 1e-6;

interface Kinds {
  x: DTypeName;
  y: DTypeName;
}

type Norm = "layer" | "rms" | "rms modulated";

function makeCase(norm: Norm, D: number, kinds: Kinds, seed: number, offsets = OFFSETS): NormCase {
  const rows = offsets.at(-1) as number;
  const modWidth = 3 * D + 1;
  const modulation = {
    mod: randomArray(seed + 1, "f32", (offsets.length - 1) * modWidth, 0.5),
    modWidth,
    shiftColumn: 2 * D + 1,
    scaleColumn: 1,
  };
  // A mean that is not small next to the spread, as the residual stream has it.
  const x = representable(
    kinds.x,
    randomArray(seed, kinds.x, rows * D).map((number) => number + 0.5),
  );
  return {
    x,
    offsets,
    D,
    eps: EPS,
    w: norm === "layer" ? null : randomArray(seed + 2, kinds.y, D, 2),
    modulation: norm === "rms" ? null : modulation,
  };
}

interface Found {
  y: TensorId;
  stats: TensorId;
  dx: TensorId;
  dw: TensorId;
  dmod: TensorId;
}

const DX_BEFORE = 0.25;
const DW_BEFORE = 3;
const DMOD_BEFORE = 777;

/** x, dx: dtype kinds.x; y, dy, w: kinds.y. dx and dw hold something before, as they are added to. */
function run(tensors: Tensors, c: NormCase, kinds: Kinds, dy: Float64Array): Found {
  const rows = c.x.length / c.D;
  const x = tensors.from(kinds.x, c.x);
  const y = tensors.alloc(kinds.y, c.x.length);
  const gradient = tensors.from(kinds.y, dy);
  const dx = tensors.alloc(kinds.x, c.x.length, DX_BEFORE);
  const dw = tensors.alloc("f32", c.D, DW_BEFORE);
  const stats = tensors.alloc("f32", c.w === null ? 2 * rows : rows);
  const { modWidth, shiftColumn, scaleColumn } = c.modulation ?? {
    modWidth: 0,
    shiftColumn: 0,
    scaleColumn: 0,
  };
  const mod = c.modulation === null ? 0 : tensors.from("f32", c.modulation.mod);
  const dmod = tensors.alloc("f32", c.modulation?.mod.length ?? 0, DMOD_BEFORE);
  const place = [modWidth, shiftColumn, scaleColumn, c.offsets, c.D] as const;
  if (c.w === null) {
    native.layerNormModulateForward(y, stats, x, mod, ...place, c.eps);
    native.layerNormModulateBackward(dx, dmod, gradient, x, stats, mod, ...place);
  } else {
    const w = tensors.from(kinds.y, c.w);
    native.rmsNormForward(y, stats, x, w, mod, ...place, c.eps);
    native.rmsNormBackward(dx, dw, mod === 0 ? 0 : dmod, gradient, x, stats, w, mod, ...place);
  }
  return { y, stats, dx, dw, dmod };
}

/**
 * fp32: the statistics are sums of D numbers in at least 32 partial sums, so their relative error is a few 2^-24; each
 * further step of a formula adds one 2^-24. Sums over rows run over at most 32 rows in fp32. bf16: the one rounding
 * when a result is stored.
 */
const tolerance = (dtype: DTypeName): number => (dtype === "bf16" ? 1.5 * storedRounding(dtype) : 6e-7);

function assertMatchesTwin(norm: Norm, D: number, kinds: Kinds): void {
  const what = `${norm} ${D} ${kinds.x} ${kinds.y}`;
  const c = makeCase(norm, D, kinds, D);
  const dy = randomArray(D + 5, kinds.y, c.x.length);
  const tensors = new Tensors();
  try {
    const found = run(tensors, c, kinds, dy);
    const forward = normForward(c);
    const backward = normBackward(c, dy);
    assertClose(tensors.read(found.y), forward.y, tolerance(kinds.y), `${what} y`);
    const stats = tensors.read(found.stats);
    const rstd = norm === "layer" ? stats.filter((_, i) => i % 2 === 1) : stats;
    assertClose(rstd, forward.rstd, 3e-7, `${what} rstd`);
    if (norm === "layer") {
      const mean = stats.filter((_, i) => i % 2 === 0);
      assertClose(mean, forward.mean, 3e-7, `${what} mean`);
    }
    const dx = backward.dx.map((number) => number + DX_BEFORE);
    assertClose(tensors.read(found.dx), dx, tolerance(kinds.x), `${what} dx`);
    if (c.w !== null) {
      const dw = backward.dw.map((number) => number + DW_BEFORE);
      assertClose(tensors.read(found.dw), dw, 6e-7, `${what} dw`);
    }
    if (c.modulation !== null) assertModulation(tensors.read(found.dmod), backward.dmod, c, what);
  } finally {
    tensors.release();
  }
}

/** Shift and scale columns are written, 0 for samples without rows; all other columns stay as they were. */
function assertModulation(found: Float64Array, wanted: Float64Array, c: NormCase, what: string): void {
  const { modWidth, shiftColumn, scaleColumn } = c.modulation as NonNullable<NormCase["modulation"]>;
  const written = (i: number): boolean => {
    const column = i % modWidth;
    return [shiftColumn, scaleColumn].some((first) => column >= first && column < first + c.D);
  };
  const kept = found.filter((_, i) => !written(i));
  assert.ok(
    kept.every((number) => number === DMOD_BEFORE),
    `${what}: other columns of dmod stay`,
  );
  const columns = (all: Float64Array): Float64Array => all.filter((_, i) => written(i));
  assertClose(columns(found), columns(wanted), 6e-7, `${what} dmod`);
  const withoutRows = found.slice(modWidth, 2 * modWidth).filter((_, i) => written(i));
  assert.ok(
    withoutRows.every((number) => number === 0),
    `${what}: 0 for a sample without rows`,
  );
}

for (const norm of ["layer", "rms", "rms modulated"] as const) {
  for (const kinds of [
    { x: "f32", y: "f32" },
    { x: "bf16", y: "bf16" },
    { x: "f32", y: "bf16" },
    { x: "bf16", y: "f32" },
  ] as const) {
    test(`${norm} norm matches its twin at odd widths: x ${kinds.x}, y ${kinds.y}`, () => {
      // Two numbers may lie so close that fp32 cannot tell their spread: layer norm starts at 7.
      for (const D of [norm === "layer" ? 7 : 2, 8, 19, 64, 131, 384]) assertMatchesTwin(norm, D, kinds);
    });
  }

  test(`${norm} norm's slow twin agrees with finite differences`, () => {
    const c = makeCase(norm, 5, { x: "f32", y: "f32" }, 3);
    const dy = randomArray(4, "f32", c.x.length);
    const gradients = normBackward(c, dy);
    const loss = (): number => normForward(c).y.reduce((sum, y, i) => sum + y * (dy[i] as number), 0);
    const inputs: [Float64Array, Float64Array][] = [[c.x, gradients.dx]];
    if (c.w !== null) inputs.push([c.w, gradients.dw]);
    if (c.modulation !== null) inputs.push([c.modulation.mod, gradients.dmod]);
    for (const [input, gradient] of inputs) {
      for (const i of [0, 3, 4, Math.max(0, input.length - 6), input.length - 1]) {
        const error = Math.abs(finiteDifference(loss, input, i) - (gradient[i] as number));
        assert.ok(!!(error <= 1e-7 * (1 + Math.abs(gradient[i] as number))), `element ${i}: off by ${error}`);
      }
    }
  });

  test(`${norm} norm has the same bits with 1, 2 and 4 threads`, () => {
    const offsets = Int32Array.from([0, 33, 200, 200, 301]);
    for (const kinds of [
      { x: "f32", y: "f32" },
      { x: "bf16", y: "bf16" },
    ] as const) {
      const c = makeCase(norm, 67, kinds, 1, offsets);
      const dy = randomArray(2, kinds.y, c.x.length);
      assertSameBitsForAnyThreads(
        (tensors) => Object.values(run(tensors, c, kinds, dy)),
        `${norm} ${kinds.x}`,
      );
    }
  });
}

test("layer norm keeps its accuracy where the mean is far above the spread", () => {
  const D = 256;
  const kinds = { x: "f32", y: "f32" } as const;
  const c = makeCase("layer", D, kinds, 1);
  // Whole numbers around 1000 are exact in fp32, so all the error is the kernel's.
  c.x.set(c.x.map((number) => 1000 + Math.round(8 * number)));
  const tensors = new Tensors();
  const found = run(tensors, c, kinds, randomArray(2, "f32", c.x.length));
  // The mean is off by up to 2^-24 * 1000, that is 6e-5 of a spread of 4.6 / 4.6.
  assertClose(tensors.read(found.y), normForward(c).y, 3e-5, "y");
  tensors.release();
});

test("layer norm of a constant row is its shift, of a row of one number too", () => {
  const kinds = { x: "f32", y: "f32" } as const;
  for (const D of [1, 40]) {
    const c = makeCase("layer", D, kinds, 1);
    c.x.fill(2.5);
    const tensors = new Tensors();
    const found = run(tensors, c, kinds, randomArray(2, "f32", c.x.length));
    assert.deepEqual(tensors.read(found.y), normForward(c).y.map(Math.fround));
    tensors.release();
  }
});

test("norms accept packs without rows and leave dw", () => {
  const kinds = { x: "f32", y: "f32" } as const;
  for (const norm of ["layer", "rms", "rms modulated"] as const) {
    const c = makeCase(norm, 8, kinds, 1, Int32Array.from([0, 0, 0]));
    const tensors = new Tensors();
    const found = run(tensors, c, kinds, new Float64Array(0));
    if (norm !== "layer") assert.ok(tensors.read(found.dw).every((number) => number === DW_BEFORE));
    if (norm !== "rms") {
      const dmod = tensors.read(found.dmod);
      assert.equal(dmod.filter((number) => number === 0).length, 2 * 2 * 8);
    }
    tensors.release();
  }
});

test("norms refuse wrong shapes and name the tensor", () => {
  const tensors = new Tensors();
  const [x, y, stats, mod] = [16, 16, 4, 40].map((count) => tensors.alloc("f32", count)) as [
    TensorId,
    TensorId,
    TensorId,
    TensorId,
  ];
  const rstd = tensors.alloc("f32", 2);
  const offsets = Int32Array.from([0, 2]);
  const wrong = (pattern: RegExp, call: () => void): void =>
    assert.throws(call, (error: Error & { code?: string }) => {
      assert.equal(error.code, "NATIVE_ARGUMENT");
      assert.match(error.message, pattern);
      return true;
    });
  wrong(/y has 4 elements, want 2 rows of 8/, () =>
    native.layerNormModulateForward(stats, stats, x, mod, 40, 0, 8, offsets, 8, EPS),
  );
  wrong(/scaleColumn is 33, want at most 32/, () =>
    native.layerNormModulateForward(y, stats, x, mod, 40, 0, 33, offsets, 8, EPS),
  );
  wrong(/mod has 40 elements, want 1 rows of 41/, () =>
    native.layerNormModulateForward(y, stats, x, mod, 41, 0, 8, offsets, 8, EPS),
  );
  wrong(/w has 16 elements, want 1 rows of 8/, () =>
    native.rmsNormForward(y, rstd, x, x, 0, 0, 0, 0, offsets, 8, EPS),
  );
  tensors.release();
});
