import type { Layout } from "../job/layout.js";
import type { FlatUnit, ShardPiece } from "../job/sharding.js";
import type { StateKind, StateMeta } from "./state.js";

export interface SnapshotEntry {
  kind: StateKind;
  unit: string;
  /** From the start of the page; a multiple of 64. */
  byteOffset: number;
  /** f32 elements; 0 where the rank holds nothing of the unit. */
  count: number;
}

export interface SnapshotLayout {
  /** Size of the page: header and data. */
  bytes: number;
  /** Kind by kind in the order of STATE_KINDS, unit by unit in canonical order. */
  entries: SnapshotEntry[];
  /** What of which parameter lies where in a unit's shard. */
  pieces: ShardPiece[];
}

/** Where everything lies in the snapshot of one rank. Pure. */
export declare function snapshotLayout(
  units: readonly FlatUnit[],
  layout: Layout,
  rank: number,
): SnapshotLayout;
/** Call before the first byte of a new state is copied into the page: from here to the seal it is not whole. */
export declare function beginSnapshot(page: Uint8Array): void;
/** Declares the page whole, holding `meta.state` of `rank`. `checksum` (default true) adds a CRC-32 per MiB (3 GB/s). */
export declare function sealSnapshot(
  page: Uint8Array,
  content: { meta: StateMeta; rank: number; checksum?: boolean },
): void;

export interface SnapshotHeader {
  path: string;
  meta: StateMeta;
  rank: number;
  bytes: number;
  /** Counts the fillings of the page; a change means that it was overwritten. */
  sequence: bigint;
  /** CRC-32 of each MiB of data, or null when sealed without. */
  checksums: Uint32Array | null;
}

/** Null: there is no such file, or it is not whole (never sealed, being written, cut short, of another format). */
export declare function readSnapshotHeader(path: string): SnapshotHeader | null;
/** Reads the content against its checksums. Null: whole and unharmed; otherwise what is wrong, in one line. */
export declare function verifySnapshot(path: string): Promise<string | null>;
