import { type PhiloxKey, philoxInto, philoxKey, STREAM } from "./philox.js";

/** Feistel rounds; four already give a strong pseudo-random permutation, two more cost little on tiny domains. */
const ROUNDS = 6;
/** A half block lives in the low bits of the first counter word, the round above it. */
const HALF_BITS_MAX = 26;

/**
 * A seeded permutation of 0..count-1 that is evaluated at one point in constant time and no memory, so that item k of
 * any epoch is found without shuffling: a balanced Feistel network on the next power of four, walked until it lands
 * below count (at most four tries on average). Draws come from the ORDER stream: counter (round and half, domain, epoch, ORDER).
 */
export class Permutation {
  private readonly key: PhiloxKey;
  private readonly words = new Uint32Array(4);
  private readonly halfMask: number;

  constructor(private readonly options: { count: number; seed: number; epoch: number; domain: number }) {
    this.key = philoxKey(options.seed);
    let halfBits = 1;
    while (4 ** halfBits < options.count) halfBits += 1;
    if (halfBits > HALF_BITS_MAX)
      throw new RangeError(`Permutation: count ${options.count} is above 4^${HALF_BITS_MAX}`);
    this.halfMask = 2 ** halfBits - 1;
  }

  /** Image of `index`, 0 <= index < count. */
  at(index: number): number {
    if (!(index >= 0 && index < this.options.count)) {
      throw new RangeError(`Permutation.at: index ${index} is not in 0..${this.options.count - 1}`);
    }
    let value = index;
    do value = this.walk(value);
    while (value >= this.options.count);
    return value;
  }

  private walk(value: number): number {
    const base = this.halfMask + 1;
    let left = Math.floor(value / base);
    let right = value % base;
    for (let round = 0; round < ROUNDS; round++) {
      philoxInto(
        this.words,
        this.key,
        round * 2 ** HALF_BITS_MAX + right,
        this.options.domain,
        this.options.epoch,
        STREAM.ORDER,
      );
      const mixed = (left ^ this.words[0]!) & this.halfMask;
      left = right;
      right = mixed;
    }
    return left * base + right;
  }
}
