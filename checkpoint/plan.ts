import type { Layout } from "../job/layout.js";
import type { ParameterSpec } from "../job/parameters.js";
import type { FlatUnit } from "../job/sharding.js";
import type { Interval, StateKind } from "./state.js";

/** An interval that one rank writes, and where the rank finds it. */
export interface PlannedInterval extends Interval {
  kind: StateKind;
  spec: ParameterSpec;
  unit: string;
  /** Element offset in the rank's shard of that unit. */
  shardOffset: number;
}

/** Who writes what: every element of every tensor exactly once; replicas share the writing evenly. */
export interface WritePlan {
  writerCount: number;
  /** Sorted by kind, then canonical parameter order, then start; may be empty. O(tensors), whatever the world size. */
  intervals(writer: number): PlannedInterval[];
  /** Equal on all ranks that derived the same plan. */
  digest: string;
}
export declare function writePlan(units: readonly FlatUnit[], layout: Layout): WritePlan;
export declare function planDigest(units: readonly FlatUnit[], layout: Layout): string;
