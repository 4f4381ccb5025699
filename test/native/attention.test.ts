import assert from "node:assert/strict";
import { test } from "node:test";
import { DTYPE, type DTypeName, type TensorId } from "../../worker/engine/native.js";
import { type AttentionCase, attentionBackward, attentionForward } from "./attention_reference.js";
import {
  assertClose,
  assertSameBitsForAnyThreads,
  native,
  randomArray,
  storedRounding,
  Tensors,
} from "./kernel_support.js";

const offsets = (...lengths: number[]): Int32Array =>
  Int32Array.from([0, ...lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b, 0))]);

interface Lengths {
  queries: number[];
  keys: number[];
}

/** Empty, single, odd, beyond one tile of keys (120), of queries (64), and beyond a chunk of keys (64 to 512). */
const MIXED: Lengths = { queries: [0, 1, 17, 70, 5, 0, 3], keys: [3, 1, 17, 131, 0, 0, 515] };

function makeCase(
  dtype: DTypeName,
  heads: number,
  width: number,
  lengths: Lengths,
  seed: number,
): AttentionCase {
  const qOffsets = offsets(...lengths.queries);
  const kOffsets = offsets(...lengths.keys);
  const [N, M] = [qOffsets.at(-1) as number, kOffsets.at(-1) as number];
  return {
    heads,
    width,
    qOffsets,
    kOffsets,
    q: randomArray(seed, dtype, N * heads * width, 2),
    k: randomArray(seed + 1, dtype, M * heads * width, 2),
    v: randomArray(seed + 2, dtype, M * heads * width),
  };
}

interface Run {
  out: TensorId;
  lse: TensorId;
  dq: TensorId;
  dk: TensorId;
  dv: TensorId;
}

/** Forward, then backward with out and lse that forward wrote. */
function run(tensors: Tensors, dtype: DTypeName, c: AttentionCase, dout: Float64Array): Run {
  const [q, k, v] = [tensors.from(dtype, c.q), tensors.from(dtype, c.k), tensors.from(dtype, c.v)];
  const out = tensors.alloc(dtype, c.q.length);
  const lse = tensors.alloc("f32", c.q.length / c.width);
  native.attentionForward(out, lse, q, k, v, c.qOffsets, c.kOffsets, c.heads, c.width);
  const dq = tensors.alloc(dtype, c.q.length);
  const dk = tensors.alloc(dtype, c.k.length);
  const dv = tensors.alloc(dtype, c.k.length);
  const gradient = tensors.from(dtype, dout);
  native.attentionBackward(dq, dk, dv, gradient, out, lse, q, k, v, c.qOffsets, c.kOffsets, c.heads, c.width);
  return { out, lse, dq, dk, dv };
}

/**
 * fp32: a score is a sum of d products whose rounding errors, 2^-24 of each partial sum, add up like a random walk: for
 * scores around 3 and d up to 256 that is 16 * 2^-24 * 0.5, which is the relative error of p; sums over keys average
 * over many p. bf16: rounding of the stored result (uniform in +-2^-9 of a binade) dominates; the gradients of scores
 * also see the rounding of out in delta. Twice that for dq and dk, where two such factors meet.
 */
const tolerance = (dtype: DTypeName): number => (dtype === "bf16" ? 1.5 * storedRounding(dtype) : 1e-6);

function assertMatchesTwin(dtype: DTypeName, c: AttentionCase, seed: number, what: string): void {
  const tensors = new Tensors();
  try {
    const dout = randomArray(seed, dtype, c.q.length);
    const found = run(tensors, dtype, c, dout);
    const forward = attentionForward(c);
    const backward = attentionBackward(c, dout);
    assertClose(tensors.read(found.out), forward.out, tolerance(dtype), `${what} out`);
    const lse = tensors.read(found.lse);
    for (const [i, wanted] of forward.lse.entries()) {
      const error = wanted === -Infinity && lse[i] === -Infinity ? 0 : Math.abs((lse[i] as number) - wanted);
      assert.ok(!!(error <= 2e-6 * (1 + Math.abs(wanted))), `${what} lse[${i}]: ${lse[i]}, want ${wanted}`);
    }
    assertClose(tensors.read(found.dv), backward.dv, tolerance(dtype), `${what} dv`);
    assertClose(tensors.read(found.dq), backward.dq, 2 * tolerance(dtype), `${what} dq`);
    assertClose(tensors.read(found.dk), backward.dk, 2 * tolerance(dtype), `${what} dk`);
  } finally {
    tensors.release();
  }
}

for (const dtype of ["f32", "bf16"] as const) {
  for (const [heads, width] of [
    [2, 64],
    [3, 24],
    [1, 8],
    [1, 2],
    [2, 72],
    [1, 128],
    [1, 256],
  ] as const) {
    test(`attention matches its twin for mixed samples: ${dtype}, ${heads} heads of ${width}`, () => {
      assertMatchesTwin(dtype, makeCase(dtype, heads, width, MIXED, width), 9, `d ${width}`);
    });
  }
}

/** A device's blocks own 64 rows and walk over 64 or 32 at a time: around each edge on either side, and one token alone. */
const EDGES: Lengths = {
  queries: [1, 1, 63, 64, 65, 33, 127, 2, 129],
  keys: [1, 65, 64, 63, 31, 128, 1, 127, 32],
};

for (const width of [16, 40, 48, 56, 80, 88, 96, 104, 112, 120]) {
  test(`attention in bf16 matches its twin for heads of ${width}`, () => {
    const lengths = { queries: [3, 0, 66], keys: [35, 2, 9] };
    assertMatchesTwin("bf16", makeCase("bf16", 1, width, lengths, width), 9, `d ${width}`);
  });
}

for (const width of [64, 72, 128]) {
  test(`attention in bf16 matches its twin at the edges of tiles: heads of ${width}`, () => {
    assertMatchesTwin("bf16", makeCase("bf16", 1, width, EDGES, width), 7, `edges, d ${width}`);
  });
}

test("attention in bf16 matches its twin for a pack of many short samples", () => {
  const lengths = { queries: Array.from({ length: 40 }, (_, i) => 1 + (i % 3)), keys: new Array(40).fill(2) };
  assertMatchesTwin("bf16", makeCase("bf16", 2, 8, lengths, 6), 3, "many samples");
});

test("attention in bf16 writes every gradient where a sample has no keys, or no queries", () => {
  const c = makeCase("bf16", 1, 64, { queries: [5, 0, 70], keys: [0, 70, 0] }, 2);
  const tensors = new Tensors();
  const { out, dq, dk, dv } = run(tensors, "bf16", c, randomArray(3, "bf16", c.q.length));
  for (const id of [out, dq, dk, dv]) assert.ok(tensors.read(id).every((x) => x === 0));
  tensors.release();
});

test("attention matches its twin when many chunks of keys meet many tiles of queries", () => {
  assertMatchesTwin("f32", makeCase("f32", 1, 64, { queries: [200, 64], keys: [600, 64] }, 4), 5, "long");
});

test("attention backward's slow twin agrees with finite differences", () => {
  const c = makeCase("f32", 2, 6, { queries: [2, 3], keys: [4, 2] }, 1);
  const dout = randomArray(2, "f32", c.q.length);
  const loss = (): number => attentionForward(c).out.reduce((sum, x, i) => sum + x * (dout[i] as number), 0);
  const gradients = attentionBackward(c, dout);
  const step = 1e-5;
  for (const [input, gradient] of [
    [c.q, gradients.dq],
    [c.k, gradients.dk],
    [c.v, gradients.dv],
  ] as const) {
    for (const i of [0, 7, input.length - 1]) {
      const kept = input[i] as number;
      input[i] = kept + step;
      const above = loss();
      input[i] = kept - step;
      const below = loss();
      input[i] = kept;
      const error = Math.abs((above - below) / (2 * step) - (gradient[i] as number));
      assert.ok(!!(error <= 1e-8), `element ${i}: off by ${error}`);
    }
  }
});

test("attention survives scores far apart: the softmax is exact for one dominating key", () => {
  for (const dtype of ["f32", "bf16"] as const) {
    const c = makeCase(dtype, 1, 16, { queries: [3], keys: [300] }, 3);
    for (let i = 0; i < 16; i++) {
      for (let row = 0; row < 3; row++) c.q[row * 16 + i] = 100;
      c.k[250 * 16 + i] = 100;
    }
    const tensors = new Tensors();
    const { out, dv } = run(tensors, dtype, c, new Float64Array(c.q.length).fill(1));
    for (let row = 0; row < 3; row++) {
      assert.deepEqual(tensors.read(out).slice(row * 16, row * 16 + 16), c.v.slice(250 * 16, 251 * 16));
    }
    for (const [i, x] of tensors.read(dv).entries()) {
      assert.equal(x, Math.floor(i / 16) === 250 ? 3 : 0, `${dtype} dv[${i}]`);
    }
    tensors.release();
  }
});

test("attention lets a NaN through to its own query only", () => {
  for (const dtype of ["f32", "bf16"] as const) {
    const c = makeCase(dtype, 1, 8, { queries: [40], keys: [40] }, 3);
    c.q[5 * 8] = NaN;
    const tensors = new Tensors();
    const { out, dq } = run(tensors, dtype, c, randomArray(1, dtype, c.q.length));
    for (const rows of [tensors.read(out), tensors.read(dq)]) {
      for (let row = 0; row < 40; row++) {
        assert.equal(Number.isNaN(rows[row * 8]), row === 5, `${dtype} row ${row}`);
      }
    }
    tensors.release();
  }
});

test("attention has the same bits with 1, 2 and 4 threads", () => {
  for (const dtype of ["f32", "bf16"] as const) {
    const c = makeCase(dtype, 2, 64, { queries: [150, 400, 7], keys: [150, 600, 0] }, 8);
    const dout = randomArray(9, dtype, c.q.length);
    assertSameBitsForAnyThreads((tensors) => Object.values(run(tensors, dtype, c, dout)), dtype);
  }
});

for (const dtype of ["f32", "bf16"] as const) {
  test(`attention has the same bits for a sample alone and within a pack: ${dtype}`, () => {
    const pack = makeCase(dtype, 2, 24, { queries: [33, 100], keys: [33, 100] }, 8);
    const from = 33 * 2 * 24;
    const alone: AttentionCase = {
      ...pack,
      qOffsets: offsets(100),
      kOffsets: offsets(100),
      q: pack.q.slice(from),
      k: pack.k.slice(from),
      v: pack.v.slice(from),
    };
    const dout = randomArray(9, dtype, pack.q.length);
    const tensors = new Tensors();
    const together = run(tensors, dtype, pack, dout);
    const single = run(tensors, dtype, alone, dout.slice(from));
    for (const name of ["out", "dq", "dk", "dv"] as const) {
      assert.deepEqual(tensors.read(single[name]), tensors.read(together[name]).slice(from), name);
    }
    tensors.release();
  });
}

test("attention does nothing for a rank without heads or tokens", () => {
  const tensors = new Tensors();
  const empty = new Float64Array(0);
  const noHeads = makeCase("f32", 0, 64, { queries: [4], keys: [4] }, 1);
  const noTokens = makeCase("f32", 2, 64, { queries: [0, 0], keys: [0, 0] }, 1);
  const noSamples = makeCase("f32", 2, 64, { queries: [], keys: [] }, 1);
  for (const c of [noHeads, noTokens, noSamples]) {
    const found = run(tensors, "f32", c, empty);
    for (const id of Object.values(found)) assert.equal(tensors.bytes(id).length, 0);
  }
  tensors.release();
});

test("attention refuses wrong shapes and names the tensor", () => {
  const tensors = new Tensors();
  const c = makeCase("f32", 2, 8, { queries: [4], keys: [4] }, 1);
  const [q, k] = [tensors.from("f32", c.q), tensors.from("f32", c.k)];
  const [out, lse, short] = [tensors.alloc("f32", 64), tensors.alloc("f32", 8), tensors.alloc("f32", 63)];
  const wrong = (pattern: RegExp, call: () => void): void =>
    assert.throws(call, (error: Error & { code?: string }) => {
      assert.equal(error.code, "NATIVE_ARGUMENT");
      assert.match(error.message, pattern);
      return true;
    });
  const { qOffsets, kOffsets } = c;
  wrong(/v has 63 elements/, () => native.attentionForward(out, lse, q, k, short, qOffsets, kOffsets, 2, 8));
  wrong(/d is 7/, () => native.attentionForward(out, lse, q, k, k, qOffsets, kOffsets, 2, 7));
  wrong(/d is 258/, () => native.attentionForward(out, lse, q, k, k, qOffsets, kOffsets, 2, 258));
  wrong(/kOffsets 3/, () => native.attentionForward(out, lse, q, k, k, qOffsets, offsets(2, 2), 2, 8));
  const bytes = native.tensorAlloc(DTYPE.u8, 64);
  wrong(/q is u8/, () => native.attentionForward(out, lse, bytes, k, k, qOffsets, kOffsets, 2, 8));
  native.tensorFree(bytes);
  tensors.release();
});
