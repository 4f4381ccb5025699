import type { Tensor } from "./tensor.js";

/**
 * A trained tensor as operations see it. Where it lives changes within a step (gathered for forward, let go, gathered
 * again for backward), so both tensors are asked for at every use and never kept.
 */
export interface Parameter {
  readonly name: string;
  /** Linear weights are [out, in]. */
  readonly shape: readonly number[];
  /** In the compute dtype, whole. */
  weight(): Tensor;
  /** f32, whole; undefined until the one operation that uses the parameter writes it. */
  gradient(): Tensor;
}

/** The parameters of one unit (a block, or the root) by their names inside it. */
export interface ParameterSet {
  get(name: string): Parameter;
}
