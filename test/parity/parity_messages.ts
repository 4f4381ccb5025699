import type { CommEndpoint } from "../../worker/engine/native.js";

/** How a case is to be computed. */
export interface ParityOptions {
  /** "RxSxU". */
  layout: string;
  /** All samples in one pack, or every sample its own. */
  packs: "one" | "each";
  bf16: boolean;
  recompute: "none" | "full";
  transport: "auto" | "tcp";
}

export interface RankTask extends ParityOptions {
  path: string;
  rank: number;
  /** Folder for the shared pages. */
  folder: string;
}

/** Numbers [start, start + values.length) of a named run. */
export interface Piece {
  name: string;
  start: number;
  values: Float32Array;
}

export type ToParityRank = { kind: "task"; task: RankTask } | { kind: "connect"; members: CommEndpoint[] };

export type FromParityRank =
  | { kind: "ready"; endpoint: CommEndpoint }
  | { kind: "pieces"; pieces: Piece[] }
  | { kind: "result"; losses: number[]; norms: number[]; leakedBytes: number }
  | { kind: "failed"; message: string };
