import { GokuError } from "../../job/errors.js";
import { DTYPE, type DTypeName, type Native, type TensorId } from "./native.js";

export const DTYPE_BYTES: Record<DTypeName, number> = { f32: 4, bf16: 2, f64: 8, u8: 1 };

/**
 * A native tensor: a handle, its type and its shape. Memory is counted by references, because nothing else frees it:
 * the garbage collector does not run finalizers inside a step. Whoever calls `retain` calls `free` once more.
 */
export class Tensor {
  readonly id: TensorId;
  readonly dtype: DTypeName;
  readonly shape: readonly number[];
  readonly count: number;
  private readonly arena: Arena;
  private references = 1;

  /** Use Arena.alloc or Arena.view. */
  constructor(arena: Arena, id: TensorId, dtype: DTypeName, shape: readonly number[], count: number) {
    this.arena = arena;
    this.id = id;
    this.dtype = dtype;
    this.shape = shape;
    this.count = count;
  }

  /** Rows of a matrix [rows, columns]. */
  get rows(): number {
    return this.shape[0]!;
  }

  /** Elements per row. */
  get columns(): number {
    return this.shape[0] === 0 ? this.shape.slice(1).reduce((a, b) => a * b, 1) : this.count / this.shape[0]!;
  }

  retain(): this {
    if (this.references === 0)
      throw new GokuError("INTERNAL", `Cannot retain tensor ${this.id}: it is freed`);
    this.references++;
    return this;
  }

  /** Gives one reference back; the memory goes with the last. */
  free(): void {
    if (this.references === 0)
      throw new GokuError("INTERNAL", `Cannot free tensor ${this.id}: it is freed already`);
    if (--this.references === 0) this.arena.release(this);
  }

  /** This tensor, as something saved (see Saved in tape.ts). */
  use(): Tensor {
    return this;
  }

  /** More than one holder: whoever wants to write must copy first. */
  get shared(): boolean {
    return this.references > 1;
  }

  /** For Arena.freeAll only. */
  forget(): void {
    this.references = 0;
  }
}

/**
 * Where tensors come from, and the list of those alive. A step uses one arena of its own, so that an error in its
 * middle can free everything with `freeAll`.
 */
export class Arena {
  readonly native: Native;
  private readonly alive = new Set<Tensor>();

  constructor(native: Native) {
    this.native = native;
  }

  /** Contents are undefined. */
  alloc(dtype: DTypeName, ...shape: number[]): Tensor {
    let count = 1;
    for (const size of shape) count *= size;
    return this.adopt(this.native.tensorAlloc(DTYPE[dtype], count), dtype, shape, count);
  }

  zeros(dtype: DTypeName, ...shape: number[]): Tensor {
    const tensor = this.alloc(dtype, ...shape);
    if (tensor.count > 0) this.native.tensorFill(tensor.id, 0);
    return tensor;
  }

  /** Elements [offset, offset + product(shape)) of base, sharing and keeping its memory. */
  view(base: Tensor, offset: number, ...shape: number[]): Tensor {
    let count = 1;
    for (const size of shape) count *= size;
    return this.adopt(this.native.tensorView(base.id, offset, count), base.dtype, shape, count);
  }

  /** A tensor whose memory is a mapped page's from byteOffset on. */
  ofPage(page: Uint8Array, byteOffset: number, dtype: DTypeName, count: number): Tensor {
    return this.adopt(this.native.pageTensor(page, byteOffset, DTYPE[dtype], count), dtype, [count], count);
  }

  /** A new f32 tensor (or one of `dtype`, rounded) with these numbers. */
  from(values: Float32Array, dtype: "f32" | "bf16", ...shape: number[]): Tensor {
    const tensor = this.alloc("f32", ...shape);
    if (values.length !== tensor.count) {
      throw new GokuError(
        "INTERNAL",
        `Cannot fill a tensor: ${values.length} numbers for shape [${shape.join(", ")}]`,
      );
    }
    writeFloats(this.native, tensor, 0, values);
    if (dtype === "f32") return tensor;
    const rounded = this.alloc(dtype, ...shape);
    if (rounded.count > 0) this.native.tensorCast(rounded.id, tensor.id);
    tensor.free();
    return rounded;
  }

  /** Number of tensors alive. */
  get live(): number {
    return this.alive.size;
  }

  /** Frees everything still alive, whatever its references. */
  freeAll(): void {
    for (const tensor of this.alive) {
      tensor.forget();
      this.native.tensorFree(tensor.id);
    }
    this.alive.clear();
  }

  /** For Tensor.free only. */
  release(tensor: Tensor): void {
    this.alive.delete(tensor);
    this.native.tensorFree(tensor.id);
  }

  private adopt(id: TensorId, dtype: DTypeName, shape: readonly number[], count: number): Tensor {
    const tensor = new Tensor(this, id, dtype, shape, count);
    this.alive.add(tensor);
    return tensor;
  }
}

/** Copies numbers into an f32 tensor from element `offset` on. */
export function writeFloats(native: Native, tensor: Tensor, offset: number, values: Float32Array): void {
  if (values.length === 0) return;
  native.tensorWrite(tensor.id, offset, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
}

/** Reads `count` elements of an f32 or bf16 tensor as f32. */
export function readFloats(
  native: Native,
  tensor: Tensor,
  offset = 0,
  count = tensor.count - offset,
): Float32Array {
  if (tensor.dtype === "bf16") {
    const words = new Uint16Array(count);
    if (count > 0) native.tensorRead(tensor.id, offset, new Uint8Array(words.buffer));
    const values = new Float32Array(count);
    const bits = new Uint32Array(values.buffer);
    for (let i = 0; i < count; i++) bits[i] = words[i]! << 16;
    return values;
  }
  const values = new Float32Array(count);
  if (count > 0) native.tensorRead(tensor.id, offset, new Uint8Array(values.buffer));
  return values;
}
