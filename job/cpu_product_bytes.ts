import { tensorBytes } from "./block_memory.js";
import type { ProductSize } from "./step_memory.js";

/** Blocking of native/kernels/gemm.cc, in elements. */
const PANEL = 32;
const ROW_BLOCK = 144;
const DEPTH_MAX = 512;
const COLUMNS_MAX = 1024;
/** Multiplications below which one thread does it all. */
const SMALL = 65_536;

/**
 * Bytes that gemm() of the CPU backend takes while it runs: packed columns, and rows and sums of each thread. oneDNN, which multiplies
 * bf16 where the processor can, takes less.
 */
export function cpuProductBytes(
  { rows, depth, columns }: ProductSize,
  options: { threads: number; elementBytes: 2 | 4 },
): number {
  if (rows === 0) return 0;
  const threads = rows * depth * columns < SMALL ? 1 : options.threads;
  const blocks = Math.max(1, Math.ceil(depth / DEPTH_MAX));
  const size = Math.ceil(Math.ceil(depth / blocks) / 8) * 8;
  const packed = Math.min(COLUMNS_MAX, Math.ceil(columns / PANEL) * PANEL) * blocks * size; // part of the weights, f32
  const partial = blocks > 1 && options.elementBytes === 2 ? threads * ROW_BLOCK * COLUMNS_MAX : 0; // sums between depths, rounded once
  return tensorBytes(packed, 4) + tensorBytes(threads * ROW_BLOCK * size, 4) + tensorBytes(partial, 4);
}
