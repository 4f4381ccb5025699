import assert from "node:assert/strict";
import { loadNative } from "../../worker/engine/load_native.js";
import { DTYPE, type DTypeName, type TensorId } from "../../worker/engine/native.js";

/** What tests of kernels share: seeded numbers, tensors from and to arrays, comparison by norm. */
export const native = loadNative();

/** Uniform in [-1, 1): a linear congruential generator modulo 2^31, by its high bits. */
export function seededNumbers(seed: number): () => number {
  let state = (seed * 2654435761 + 12345) % 2 ** 31;
  return () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state / 2 ** 30 - 1;
  };
}

const word = new DataView(new ArrayBuffer(4));

/** The number as bf16 holds it: to nearest, ties to even. */
function toBf16Bits(x: number): number {
  word.setFloat32(0, x);
  const bits = word.getUint32(0);
  if (Number.isNaN(x)) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
function fromBf16Bits(bits: number): number {
  word.setUint32(0, (bits << 16) >>> 0);
  return word.getFloat32(0);
}

/** Numbers that a tensor of this dtype holds exactly. */
export function representable(dtype: DTypeName, numbers: Float64Array): Float64Array {
  return numbers.map((x) => (dtype === "bf16" ? fromBf16Bits(toBf16Bits(x)) : Math.fround(x)));
}

export function randomArray(seed: number, dtype: DTypeName, count: number, scale = 1): Float64Array {
  const next = seededNumbers(seed);
  return representable(
    dtype,
    Float64Array.from({ length: count }, () => scale * next()),
  );
}

/** Tensors of one test, freed together by release(). */
export class Tensors {
  private readonly ids: { id: TensorId; dtype: DTypeName; count: number }[] = [];

  from(dtype: DTypeName, numbers: Float64Array): TensorId {
    const id = this.alloc(dtype, numbers.length);
    const raw = dtype === "bf16" ? Uint16Array.from(numbers, toBf16Bits) : Float32Array.from(numbers);
    native.tensorWrite(id, 0, new Uint8Array(raw.buffer));
    return id;
  }

  /** Filled with a number that no result is: what a kernel leaves out, a test sees. */
  alloc(dtype: DTypeName, count: number, filled = 777): TensorId {
    const id = native.tensorAlloc(DTYPE[dtype], count);
    native.tensorFill(id, filled);
    this.ids.push({ id, dtype, count });
    return id;
  }

  read(id: TensorId): Float64Array {
    const bytes = this.bytes(id);
    const dtype = this.ids.find((held) => held.id === id)?.dtype;
    return dtype === "bf16"
      ? Float64Array.from(new Uint16Array(bytes.buffer), fromBf16Bits)
      : Float64Array.from(new Float32Array(bytes.buffer));
  }

  bytes(id: TensorId): Uint8Array {
    const held = this.ids.find((one) => one.id === id);
    assert.ok(held !== undefined);
    const bytes = new Uint8Array(held.count * (held.dtype === "bf16" ? 2 : 4));
    native.tensorRead(id, 0, bytes);
    return bytes;
  }

  release(): void {
    for (const { id } of this.ids.splice(0)) native.tensorFree(id);
  }
}

/**
 * Asserts ||found - wanted|| <= tolerance * ||wanted||, and that where `wanted` is all zeros (or empty) `found` is
 * too. A NaN on either side fails.
 */
export function assertClose(
  found: Float64Array,
  wanted: Float64Array,
  tolerance: number,
  what: string,
): void {
  assert.equal(found.length, wanted.length, `${what}: length`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < wanted.length; i++) {
    difference += ((found[i] as number) - (wanted[i] as number)) ** 2;
    norm += (wanted[i] as number) ** 2;
  }
  const relative = norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
  assert.ok(!!(relative <= tolerance), `${what}: relative error ${relative}, want at most ${tolerance}`);
}

/** Runs the same with 1, 2 and 4 threads and asserts that every result has the same bits. */
export function assertSameBitsForAnyThreads(run: (tensors: Tensors) => TensorId[], what: string): void {
  const before = native.cpuInfo().threads;
  let first: Uint8Array[] | undefined;
  for (const threads of [1, 2, 4]) {
    const tensors = new Tensors();
    try {
      native.threadsSet(threads);
      const results = run(tensors).map((id) => tensors.bytes(id));
      first ??= results;
      for (const [i, bytes] of results.entries()) {
        assert.deepEqual(bytes, first[i], `${what}: result ${i} with ${threads} threads`);
      }
    } finally {
      native.threadsSet(before);
      tensors.release();
    }
  }
}

/** Rounding of one stored result: half a unit in the last place of f32 (2^-24) or bf16 (2^-9). */
export function storedRounding(dtype: DTypeName): number {
  return dtype === "bf16" ? 2 ** -9 : 2 ** -24;
}
