import { createHash } from "node:crypto";
import type { CheckPlace } from "../check_messages.js";
import { DTYPE, type Native, type TensorId } from "../engine/native.js";
import { type FailpointName, failpoint } from "../failpoints.js";
import type { Finding } from "./finding.js";

/** y[rows, F] = x[rows, K] w[F, K]^T; a block of x is repeated, so that every thread computes the same numbers. */
export const PRODUCT = { blockRows: 64, K: 512, F: 256 } as const;
/** Largest input: exact in bf16, and sums of K products (at most 512 * 63 * 63) are exact in fp32 in any order. */
const INPUT_MAX = 63;
const BLOCKS_PER_THREAD = 2;
/** SHA-256 of one block as little-endian fp32: what exact integers give (test/worker/checks/matrix_product.test.ts). */
export const PRODUCT_DIGEST = "6a5efd2abddf1d9e178751f2d7a8edee8612f52301e8435c03830c590807032d";

/** Whole numbers from a seed, from -INPUT_MAX to INPUT_MAX. */
export function productInput(count: number, seed: number): Int32Array {
  const numbers = new Int32Array(count);
  let state = seed >>> 0;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    numbers[i] = ((state >>> 8) % (2 * INPUT_MAX + 1)) - INPUT_MAX;
  }
  return numbers;
}
export const PRODUCT_SEEDS = { x: 1, w: 2 } as const;

/**
 * The engine's own matrix product on all cores, fp32 and bf16 in turn, until the budget is used. Its inputs are whole
 * numbers whose sums are exact, so every healthy processor gives the bits of the digest, whatever its instruction set
 * and number of threads: anything else is silent corruption.
 */
export function checkMatrix(native: Native, { budgetMs }: Pick<CheckPlace, "budgetMs">): Finding {
  const { threads } = native.cpuInfo();
  const blocks = BLOCKS_PER_THREAD * threads;
  const { blockRows, K, F } = PRODUCT;
  const rows = blocks * blockRows;
  const tensors: TensorId[] = [];
  const tensor = (dtype: keyof typeof DTYPE, count: number) => {
    const id = native.tensorAlloc(DTYPE[dtype], count);
    tensors.push(id);
    return id;
  };
  try {
    const block = Float32Array.from(productInput(blockRows * K, PRODUCT_SEEDS.x));
    const x = tensor("f32", rows * K);
    for (let i = 0; i < blocks; i++) native.tensorWrite(x, i * block.length, new Uint8Array(block.buffer));
    const w = tensor("f32", F * K);
    native.tensorWrite(w, 0, new Uint8Array(Float32Array.from(productInput(F * K, PRODUCT_SEEDS.w)).buffer));
    const [xHalf, wHalf] = [tensor("bf16", rows * K), tensor("bf16", F * K)];
    native.tensorCast(xHalf, x);
    native.tensorCast(wHalf, w);
    const y = tensor("f32", rows * F);
    const begunMs = performance.now();
    let productMs = 0;
    let rounds = 0;
    do {
      const half = rounds % 2 === 1;
      const startMs = performance.now();
      native.linearForward(y, half ? xHalf : x, half ? wHalf : w, 0, rows, K, F, 0);
      productMs += performance.now() - startMs;
      const wrong = wrongBlock(native, y, blocks, "selfcheck.matrix");
      if (wrong !== null) {
        const detail = `round ${rounds + 1}, ${half ? "bf16" : "fp32"}: block ${wrong} of ${blocks} over ${threads} threads differs from the exact product`;
        return { ok: false, value: 0, unit: "GFLOPS", detail };
      }
      rounds += 1;
    } while (performance.now() - begunMs < budgetMs);
    const value = (2 * rounds * rows * K * F) / productMs / 1e6;
    return {
      ok: true,
      value,
      unit: "GFLOPS",
      detail: `${rounds} products of ${rows}x${K}x${F} on ${threads} threads`,
    };
  } finally {
    for (const id of tensors) native.tensorFree(id);
  }
}

/** The first block of rows whose bits are not those of the digest; null: all are. */
export function wrongBlock(native: Native, y: TensorId, blocks: number, point: FailpointName): number | null {
  const { blockRows, F } = PRODUCT;
  const bytes = Buffer.alloc(blocks * blockRows * F * 4);
  native.tensorRead(y, 0, bytes);
  if (failpoint(point) === "flip") bytes[bytes.length - 2]! ^= 1;
  const size = bytes.length / blocks;
  const first = bytes.subarray(0, size);
  if (createHash("sha256").update(first).digest("hex") !== PRODUCT_DIGEST) return 0;
  for (let i = 1; i < blocks; i++) if (!first.equals(bytes.subarray(i * size, (i + 1) * size))) return i;
  return null;
}
