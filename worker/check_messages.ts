import type { CommEndpoint } from "./engine/native.js";

/** The contract between an agent and the process in which it has its node examined. */

/** Checks that a node can do alone, in the order in which they are run. */
export const LONE_CHECKS = ["memory", "matrix", "copy", "disk", "checkpoint_disk", "loopback"] as const;
export type LoneCheck = (typeof LONE_CHECKS)[number];

/** Checks of each CUDA device of a node, in order; its memory comes first, since the others use it. */
export const DEVICE_CHECKS = [
  "device_memory",
  "device_matrix",
  "device_upload",
  "device_download",
  "device_copy",
] as const;
export type DeviceCheck = (typeof DEVICE_CHECKS)[number];

/** The collective needs other nodes, and is run alone. */
export type CheckName = LoneCheck | DeviceCheck | "collective";

/** What one check found. */
export interface CheckResult {
  name: CheckName;
  /** False: wrong bits, nothing that answers, or no end in time. */
  ok: boolean;
  /** How much or how fast, in `unit`; 0 when it failed. */
  value: number;
  unit: "MiB" | "GFLOPS" | "GB/s" | "MB/s" | "";
  /** For people: what was done, or what was found and wanted. */
  detail: string;
  seconds: number;
}

/** What a check may use. */
export interface CheckPlace {
  /** Milliseconds of work; reached, not exceeded by more than one round of it. */
  budgetMs: number;
  /** Address at which other nodes reach this one. */
  host: string;
  /** Of the agent's PeerService; 0: it has none. */
  peerPort: number;
  /** The node's folder of pages and snapshots. */
  stateDir: string;
  /** Folder that checkpoints go to; empty: none on a disk. */
  checkpointDir: string;
}

export type ToChecker =
  /** A process examines the node, or one device: the checks of the other are not asked of it. */
  | { kind: "run"; name: LoneCheck | DeviceCheck; place: CheckPlace }
  /** Opens the port of a collective. */
  | { kind: "listen"; place: CheckPlace }
  | {
      kind: "connect";
      place: CheckPlace;
      group: bigint;
      /** The members' key follows from it. */
      secret: string;
      members: CommEndpoint[];
      index: number;
    };

export type FromChecker =
  | { kind: "booted" }
  | { kind: "listening"; port: number }
  | { kind: "result"; result: CheckResult };
