import type { Value } from "../tape.js";

/** Scale and shift (or gate) of every sample: columns of one f32 matrix [S, width]. */
export interface Modulation {
  value: Value;
  /** Row r of the tokens belongs to sample i when offsets[i] <= r < offsets[i + 1]. */
  offsets: Int32Array;
}
