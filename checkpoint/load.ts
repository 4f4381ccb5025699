import type { Layout, LayoutSize } from "../job/layout.js";
import type { ParameterSpec } from "../job/parameters.js";
import type { FlatUnit } from "../job/sharding.js";
import type { Interval, StateKind, StateMeta, StateName } from "./state.js";
import type { Storage } from "./storage/storage.js";

export interface CheckpointEntry {
  step: number;
  state: StateName;
  parent: StateName | null;
  /** The checkpoint's folder. */
  uri: string;
  /** Of tensor data. */
  bytes: number;
  layout: LayoutSize;
  /** ISO time of the commit, by the clock of the agent that made it. */
  committedAt: string;
  /** True: the newest state of the run descends from it (or is it). False: a line that was given up. */
  current: boolean;
}

/** Committed checkpoints under a run's root, newest first. Empty when there is none. Unreadable records go to `onUnreadable`. */
export declare function listCheckpoints(
  uri: string | Storage,
  onUnreadable?: (found: { uri: string; error: Error }) => void,
): Promise<CheckpointEntry[]>;

/** One committed checkpoint, open for reading. Every byte handed out has been checked against its digest. */
export declare class Checkpoint {
  readonly uri: string;
  readonly meta: StateMeta;
  /** Of tensor data. */
  readonly bytes: number;
  readonly committedAt: string;
  readonly kinds: readonly StateKind[];
  readonly specs: readonly ParameterSpec[];
  /** CHECKPOINT_MISMATCH, naming the first few, unless it holds exactly these parameters. */
  requireModel(specs: readonly ParameterSpec[]): void;
  readInterval(interval: Interval): Promise<Float32Array>;
  /** What `rank` of any layout holds of one unit: its flat shard, empty where it holds nothing. */
  readRank(
    units: readonly FlatUnit[],
    layout: Layout,
    rank: number,
    kind: StateKind,
    unit: string,
  ): Promise<Float32Array>;
  /** A whole tensor, "<kind>/<parameter name>". */
  readTensor(name: string): Promise<Float32Array>;
}

/**
 * Opens a committed checkpoint. `uri` is the root of a run (then the newest of its current line, or that of `step`,
 * or exactly the state named) or one `checkpoint-<step>` folder.
 * Throws NOT_FOUND (no such folder, or never committed), CHECKPOINT_CORRUPT, ARGUMENT_INVALID.
 */
export declare function openCheckpoint(
  uri: string | Storage,
  which?: number | StateName | null,
): Promise<Checkpoint>;
