/**
 * Philox4x32-10, the counter-based generator behind every random number of training (Salmon et al., SC11).
 * A draw is a pure function of (key, counter): nothing depends on rank, layout or history.
 * The native twin is `philoxWords` / `philoxNormal`; this one serves pure code (packs, text, data sets).
 */

/** Last word of the counter, one per use, so that no two draws share a counter. */
export const STREAM = { INIT: 1, NOISE: 2, TIME: 3, DROP_TEXT: 4, ORDER: 5, SAMPLER: 6 } as const;

export interface PhiloxKey {
  low: number; // uint32
  high: number; // uint32
}

/** Key of a job seed: a whole number, 0 <= seed <= 2^53 - 1. */
export function philoxKey(seed: number): PhiloxKey {
  return { low: seed >>> 0, high: Math.floor(seed / 0x1_0000_0000) >>> 0 };
}

/** High 32 bits of a * b, both uint32; every partial sum stays below 2^53. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const cross1 = aLow * bHigh;
  const cross2 = aHigh * bLow;
  const middle = ((aLow * bLow) >>> 16) + (cross1 & 0xffff) + (cross2 & 0xffff);
  return (aHigh * bHigh + (cross1 >>> 16) + (cross2 >>> 16) + (middle >>> 16)) >>> 0;
}

/** Writes the four words of counter (c0, c1, c2, c3), all uint32, to out[0..3]. */
export function philoxInto(
  out: Uint32Array,
  key: PhiloxKey,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
): void {
  let a = c0;
  let b = c1;
  let c = c2;
  let d = c3;
  let k0 = key.low;
  let k1 = key.high;
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, a);
    const low0 = Math.imul(0xd2511f53, a);
    const high1 = multiplyHigh(0xcd9e8d57, c);
    const low1 = Math.imul(0xcd9e8d57, c);
    a = (high1 ^ b ^ k0) >>> 0;
    b = low1 >>> 0;
    c = (high0 ^ d ^ k1) >>> 0;
    d = low0 >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out[0] = a;
  out[1] = b;
  out[2] = c;
  out[3] = d;
}

/** Standard normals 0..out.length-1 of counter (element / 4, which, step, stream): Box-Muller in float64, rounded once. */
export function philoxNormals(
  out: Float32Array,
  key: PhiloxKey,
  place: { stream: number; step: number; which: number },
): void {
  const words = new Uint32Array(4);
  for (let element = 0; element < out.length; element += 2) {
    if (element % 4 === 0) philoxInto(words, key, element / 4, place.which, place.step, place.stream);
    const pair = element % 4;
    const u1 = (words[pair]! + 0.5) / 0x1_0000_0000;
    const u2 = (words[pair + 1]! + 0.5) / 0x1_0000_0000;
    const radius = Math.sqrt(-2 * Math.log(u1));
    const angle = 2 * Math.PI * u2;
    out[element] = radius * Math.cos(angle);
    if (element + 1 < out.length) out[element + 1] = radius * Math.sin(angle);
  }
}

/** FNV-1a over the UTF-8 bytes of a text, 32 bits; `basis` other than the standard one gives an independent hash. */
export function fnv1a(text: string, basis = 0x811c9dc5): number {
  let hash = basis >>> 0;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

/** Uniform draws in order, for writers of test data and the like; `stream` keeps independent users apart. */
export class PhiloxRandom {
  private readonly key: PhiloxKey;
  private readonly words = new Uint32Array(4);
  private drawn = 0;

  constructor(
    seed: number,
    private readonly stream: number,
    private readonly which = 0,
  ) {
    this.key = philoxKey(seed);
  }

  /** The next number in [0, 1). */
  uniform(): number {
    const lane = this.drawn % 4;
    if (lane === 0) philoxInto(this.words, this.key, Math.floor(this.drawn / 4), this.which, 0, this.stream);
    this.drawn += 1;
    return this.words[lane]! / 0x1_0000_0000;
  }

  between(low: number, high: number): number {
    return low + (high - low) * this.uniform();
  }

  pick<T>(values: readonly T[]): T {
    if (values.length === 0)
      throw new RangeError("PhiloxRandom.pick: the list is empty, need at least one value");
    return values[Math.floor(this.uniform() * values.length)]!;
  }
}
