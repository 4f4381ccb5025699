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
  /** Memory of its own; 0: a view, or in a page. */
  readonly ownBytes: number;
  private readonly arena: Arena;
  private references = 1;

  /** Use Arena.alloc or Arena.view. */
  constructor(
    arena: Arena,
    id: TensorId,
    dtype: DTypeName,
    shape: readonly number[],
    { count, ownBytes }: { count: number; ownBytes: number },
  ) {
    this.arena = arena;
    this.id = id;
    this.dtype = dtype;
    this.shape = shape;
    this.count = count;
    this.ownBytes = ownBytes;
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
    const id = this.claim(dtype, count, shape);
    return this.adopt(id, dtype, shape, { count, ownBytes: count * DTYPE_BYTES[dtype] });
  }

  /** An error for want of memory says what it was for, and what else lies there: that is what a person can change. */
  private claim(dtype: DTypeName, count: number, shape: readonly number[]): TensorId {
    try {
      return this.native.tensorAlloc(DTYPE[dtype], count);
    } catch (cause) {
      const { code, message } = cause as Error & { code?: string };
      if (code !== "NATIVE_OUT_OF_MEMORY") throw cause;
      const what = `Cannot make ${dtype} [${shape.join(", ")}]`;
      throw new GokuError("NATIVE_OUT_OF_MEMORY", `${what}: ${message}; ${aliveText(this.alive)}`, { cause });
    }
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
    return this.adopt(this.native.tensorView(base.id, offset, count), base.dtype, shape, {
      count,
      ownBytes: 0,
    });
  }

  /** A tensor whose memory is a mapped page's from byteOffset on. */
  ofPage(page: Uint8Array, byteOffset: number, dtype: DTypeName, count: number): Tensor {
    return this.adopt(this.native.pageTensor(page, byteOffset, DTYPE[dtype], count), dtype, [count], {
      count,
      ownBytes: 0,
    });
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

  private adopt(
    id: TensorId,
    dtype: DTypeName,
    shape: readonly number[],
    size: { count: number; ownBytes: number },
  ): Tensor {
    const tensor = new Tensor(this, id, dtype, shape, size);
    this.alive.add(tensor);
    return tensor;
  }
}

/** The kinds of tensors that take the most, for example "here live 3 x bf16 [4096, 1152] (27 MiB), 8 MiB more in 40 tensors". */
function aliveText(alive: ReadonlySet<Tensor>): string {
  const kinds = new Map<string, { count: number; bytes: number }>();
  for (const { dtype, shape, ownBytes } of alive) {
    if (ownBytes === 0) continue;
    const name = `${dtype} [${shape.join(", ")}]`;
    const kind = kinds.get(name) ?? { count: 0, bytes: 0 };
    kinds.set(name, { count: kind.count + 1, bytes: kind.bytes + ownBytes });
  }
  if (kinds.size === 0) return "nothing of this step lives";
  const sorted = [...kinds].sort(([, a], [, b]) => b.bytes - a.bytes);
  const shown = sorted.slice(0, KINDS_MAX);
  const rest = sorted.slice(KINDS_MAX).map(([, kind]) => kind);
  const texts = shown.map(([name, { count, bytes }]) => `${count} x ${name} (${mib(bytes)})`);
  const sum = (key: "count" | "bytes") => rest.reduce((total, kind) => total + kind[key], 0);
  if (rest.length > 0) texts.push(`${mib(sum("bytes"))} more in ${sum("count")} tensors`);
  return `here live ${texts.join(", ")}`;
}

/** Kinds of tensors that an error names. */
const KINDS_MAX = 5;

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
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
