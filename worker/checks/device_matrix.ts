import type { CheckPlace } from "../check_messages.js";
import { DTYPE, type Native, type TensorId } from "../engine/native.js";
import type { Finding } from "./finding.js";
import { PRODUCT, PRODUCT_SEEDS, productInput, wrongBlock } from "./matrix_product.js";
import { repeatFirst } from "./repeat_first.js";

/** Enough rows for every multiprocessor of a large device. A slow one gets fewer: rows double while a product is this short. */
const BLOCKS_MAX = 256;
const PRODUCT_SHARE = 1 / 8;
/** The product that rounds has the same rows and K. */
const ROUNDING_F = 64;
/** Of a sum in fp32, in whatever order, and also where a device cuts off instead of rounding. */
const UNIT_F32 = 2 ** -23;

type Precision = "fp32" | "bf16";
const PRECISIONS: readonly Precision[] = ["fp32", "bf16"];

/**
 * The engine's own matrix product on the device, in fp32 and bf16, until the budget is used. Whole numbers whose sums are
 * exact must give the bits of the digest in every block of rows, which are those of the CPU. Numbers whose sums are rounded
 * must give the same bits each time, within what rounding may do of their sums in f64.
 */
export function checkDeviceMatrix(native: Native, { budgetMs }: Pick<CheckPlace, "budgetMs">): Finding {
  const tensors: TensorId[] = [];
  try {
    const alloc: Alloc = (dtype, count) => {
      const id = native.tensorAlloc(DTYPE[dtype], count);
      tensors.push(id);
      return id;
    };
    return compute(new ExactProduct(native, alloc), new RoundingProduct(native, alloc), budgetMs);
  } finally {
    for (const id of tensors) native.tensorFree(id);
  }
}

type Alloc = (dtype: "f32" | "bf16", count: number) => TensorId;

function compute(exact: ExactProduct, rounding: RoundingProduct, budgetMs: number): Finding {
  const begunMs = performance.now();
  const fastestMs = { fp32: Number.POSITIVE_INFINITY, bf16: Number.POSITIVE_INFINITY };
  let blocks = 1;
  let blocksNext = 1;
  let rounds = 0;
  do {
    blocks = blocksNext;
    let slowestMs = 0;
    for (const precision of PRECISIONS) {
      const tookMs = exact.multiply(precision, blocks);
      slowestMs = Math.max(slowestMs, tookMs);
      fastestMs[precision] = Math.min(fastestMs[precision], tookMs / blocks);
      const wrong = exact.wrong(blocks) ?? rounding.wrong(precision);
      if (wrong === null) continue;
      const detail = `round ${rounds + 1}, ${precision}: ${wrong}`;
      return { ok: false, value: 0, unit: "GFLOPS", detail };
    }
    if (slowestMs < budgetMs * PRODUCT_SHARE) blocksNext = Math.min(2 * blocks, BLOCKS_MAX);
    rounds += 1;
  } while (performance.now() - begunMs < budgetMs);
  const { blockRows, K, F } = PRODUCT;
  const value = (2 * 2 * blockRows * K * F) / (fastestMs.fp32 + fastestMs.bf16) / 1e6;
  const rows = blocks * blockRows;
  const detail = `${rounds} times fp32 and bf16, up to ${rows}x${K}x${F}: best of each`;
  return { ok: true, value, unit: "GFLOPS", detail };
}

/** Whole numbers; a block of x is repeated, so that all of the device computes the same. */
class ExactProduct {
  private readonly native: Native;
  private readonly x: Record<Precision, TensorId>;
  private readonly w: Record<Precision, TensorId>;
  private readonly y: TensorId;

  constructor(native: Native, alloc: Alloc) {
    const { blockRows, K, F } = PRODUCT;
    this.native = native;
    const block = Float32Array.from(productInput(blockRows * K, PRODUCT_SEEDS.x));
    this.x = operand(native, alloc, block, BLOCKS_MAX);
    this.w = operand(native, alloc, Float32Array.from(productInput(F * K, PRODUCT_SEEDS.w)), 1);
    this.y = alloc("f32", BLOCKS_MAX * blockRows * F);
  }

  /** How long it took, in milliseconds. */
  multiply(precision: Precision, blocks: number): number {
    const { native, x, w, y } = this;
    const { blockRows, K, F } = PRODUCT;
    const rows = blocks * blockRows;
    const views = [native.tensorView(y, 0, rows * F), native.tensorView(x[precision], 0, rows * K)] as const;
    spoil(native, y, x.fp32, rows * F);
    const startMs = performance.now();
    native.linearForward(...views, w[precision], 0, rows, K, F, 0);
    native.tensorRead(y, rows * F - 1, new Uint8Array(4)); // a product is only queued; this waits for it
    const tookMs = performance.now() - startMs;
    for (const view of views) native.tensorFree(view);
    return tookMs;
  }

  wrong(blocks: number): string | null {
    const block = wrongBlock(this.native, this.y, blocks, "selfcheck.device.matrix");
    return block === null ? null : `block ${block} of ${blocks} differs from the exact product`;
  }
}

/** Numbers of seven bits and sixteen sizes: exact in bf16, as are their products and sums in f64, but not their sums in fp32. */
export function roundingInput(count: number, seed: number): Float32Array {
  const whole = productInput(count, seed);
  const sizes = productInput(count, seed + 2);
  const numbers = new Float32Array(count);
  for (let i = 0; i < count; i++) numbers[i] = whole[i]! / (1 << (sizes[i]! & 15));
  return numbers;
}

class RoundingProduct {
  private readonly native: Native;
  private readonly x: Record<Precision, TensorId>;
  private readonly w: Record<Precision, TensorId>;
  private readonly y: TensorId;
  private readonly twin: Twin;
  /** Bits of the first product. */
  private readonly first = new Map<Precision, Buffer>();

  constructor(native: Native, alloc: Alloc) {
    const { blockRows, K } = PRODUCT;
    this.native = native;
    const x = roundingInput(blockRows * K, PRODUCT_SEEDS.x);
    const w = roundingInput(ROUNDING_F * K, PRODUCT_SEEDS.w);
    this.x = operand(native, alloc, x, 1);
    this.w = operand(native, alloc, w, 1);
    this.y = alloc("f32", blockRows * ROUNDING_F);
    this.twin = twinOf(x, w);
  }

  wrong(precision: Precision): string | null {
    const { native, x, w, y, twin, first } = this;
    const { blockRows, K } = PRODUCT;
    const found = new Float32Array(blockRows * ROUNDING_F);
    const bytes = Buffer.from(found.buffer);
    spoil(native, y, x.fp32, blockRows * ROUNDING_F);
    native.linearForward(y, x[precision], w[precision], 0, blockRows, K, ROUNDING_F, 0);
    native.tensorRead(y, 0, bytes);
    const before = first.get(precision);
    if (before !== undefined)
      return before.equals(bytes) ? null : "a product has other bits than the first time";
    first.set(precision, bytes);
    for (let i = 0; i < found.length; i++) {
      const sum = twin.sums[i]!;
      const tolerance = K * UNIT_F32 * twin.sizes[i]!;
      if (!(Math.abs(found[i]! - sum) <= tolerance))
        return `place ${i} of a product is ${found[i]}, want ${sum} within ${tolerance}`;
    }
    return null;
  }
}

interface Twin {
  sums: Float64Array;
  /** Sums of the products' sizes. Each of K roundings errs by at most a unit of a partial sum, which is not larger. */
  sizes: Float64Array;
}

/** The product in f64. */
function twinOf(x: Float32Array, w: Float32Array): Twin {
  const { blockRows, K } = PRODUCT;
  const sums = new Float64Array(blockRows * ROUNDING_F);
  const sizes = new Float64Array(blockRows * ROUNDING_F);
  for (let i = 0; i < sums.length; i++) {
    const row = Math.floor(i / ROUNDING_F) * K;
    const column = (i % ROUNDING_F) * K;
    for (let k = 0; k < K; k++) {
      const product = x[row + k]! * w[column + k]!;
      sums[i]! += product;
      sizes[i]! += Math.abs(product);
    }
  }
  return { sums, sizes };
}

/** Writes something else over the product before: one that is not computed must not pass for it. */
function spoil(native: Native, y: TensorId, other: TensorId, count: number): void {
  native.copy2d(y, 0, count, other, 0, count, 1, count);
  native.tensorRead(y, count - 1, new Uint8Array(4)); // it is over before anything is timed
}

/** Numbers that are exact in bf16, so many times, in both precisions. */
function operand(
  native: Native,
  alloc: Alloc,
  numbers: Float32Array,
  times: number,
): Record<Precision, TensorId> {
  const bits = new Uint32Array(numbers.buffer);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) halves[i] = bits[i]! >>> 16;
  const write = (dtype: "f32" | "bf16", values: Uint32Array | Uint16Array) => {
    const tensor = alloc(dtype, numbers.length * times);
    native.tensorWrite(tensor, 0, new Uint8Array(values.buffer));
    repeatFirst(native, tensor, { unit: numbers.length, times });
    return tensor;
  };
  return { fp32: write("f32", bits), bf16: write("bf16", halves) };
}
