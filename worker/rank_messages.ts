import type { RestoredPart } from "../checkpoint/read_memory.js";
import type { StateName } from "../checkpoint/state.js";
import type { ErrorCode } from "../job/errors.js";
import type { Job } from "../job/job.js";
import type { LayoutSize } from "../job/layout.js";
import type { CommEndpoint } from "./engine/native.js";

/**
 * The whole contract between an agent and its rank processes (Node IPC, structured clones).
 * An agent message of an older generation than the rank's is ignored; a rank stamps the generation it acts for.
 */
export type ToRank =
  /** Take a place. A running rank has been aborted through the control page first. */
  | {
      kind: "prepare";
      generation: string; // decimal u64
      jobId: string;
      job: Job;
      layout: LayoutSize;
      rank: number;
      localRank: number;
      localWorldSize: number;
      nodeId: string;
      host: string; // address to listen on for collectives
      controlPage: string; // paths of tmpfs files
      progressPage: string;
      /** The set of slot files of this rank; may hold snapshots of an earlier process, which the rank adopts. */
      snapshotDir: string;
      /** All states in that set whose durable write is under way; `unpin` follows once for each, and for no other. */
      pinned: StateName[];
      /** Some rank of the world copies its state to another node: all of them keep the state that is being copied. */
      replicate: boolean;
      /** The newest state that all ranks had in two places, as far as this node knows; kept until there is a newer one. */
      kept: StateName | null;
      threads: number;
    }
  /** To a spare: a place in this job, which trains on the data with this digest, is likely to be its next one. */
  | { kind: "warm"; job: Job; dataDigest: string }
  | { kind: "connect"; generation: string; members: CommEndpoint[] }
  | { kind: "restore"; generation: string; source: RestoreSource }
  | { kind: "run"; generation: string }
  /** Leave this generation and wait; answered by `failed` with COMM_ABORTED unless the rank has left already. */
  | { kind: "abort"; generation: string; code: string; message: string; peer: number }
  /** Raised in the next vote, so that it happens at one step on all ranks. */
  | { kind: "request"; request: "save" | "stop" }
  /**
   * The durable write of this state is over (either way): one answer to each `save`, and to each entry of `pinned`.
   * That of a final save comes when the checkpoint is committed, or with what makes that impossible.
   */
  | { kind: "unpin"; state: StateName; error: { code: ErrorCode; message: string } | null }
  /** Answer to `replicate`; `whole`: another node has the state, or this rank needs no copy. Else it cannot be made. */
  | { kind: "replicated"; state: StateName; whole: boolean };

export type RestoreSource =
  | { kind: "initial" }
  | ({ kind: "snapshot" } & MemorySource)
  | { kind: "checkpoint"; uri: string; state: StateName };

/** A state that lies in the memory of the job's nodes. */
export interface MemorySource {
  state: StateName;
  /** That it was computed with. */
  layout: LayoutSize;
  /** Slot files of it on this node; that of the rank's own set, if there is one, first. */
  files: { rank: number; path: string }[];
  /** Nodes that hold what this one lacks; several for one rank are tried in order. */
  places: { rank: number; nodeId: string; host: string; port: number }[];
  /** The same state in durable storage, for what is damaged in memory. */
  durable: { uri: string; state: StateName } | null;
}

export type FromRank =
  | { kind: "hello"; pid: number }
  | { kind: "ready"; generation: string; rank: number; port: number }
  /** All groups connected and a first collective verified. */
  | { kind: "connected"; generation: string; rank: number }
  | {
      kind: "restored";
      generation: string;
      rank: number;
      state: StateName;
      dataDigest: string;
      /** Where the bytes came from. */
      parts: RestoredPart[];
      seconds: number;
    }
  | { kind: "step"; generation: string; rank: number; metrics: StepMetrics }
  /** The vote decided to make `state` durable; the snapshot slot stays pinned until `unpin`. */
  | {
      kind: "save";
      generation: string;
      rank: number;
      state: StateName;
      slotPath: string;
      reason: "periodic" | "request" | "final";
    }
  /**
   * The vote chose this state to be copied to another node; its slot stays until another one is there everywhere. `kept`:
   * the newest that is, which the other node must not give up for it.
   */
  | {
      kind: "replicate";
      generation: string;
      rank: number;
      state: StateName;
      kept: StateName | null;
      slotPath: string;
    }
  /** The state could not be copied into a slot; training goes on without. Once, until a copy succeeds again. */
  | {
      kind: "snapshotFailed";
      generation: string;
      rank: number;
      state: StateName;
      code: ErrorCode;
      message: string;
    }
  | { kind: "finished"; generation: string; rank: number; state: StateName; reason: "steps" | "stop" }
  | {
      kind: "failed";
      generation: string;
      rank: number;
      code: string;
      message: string;
      peer: number;
      operation: string;
    };

export interface StepMetrics {
  step: number;
  loss: number;
  gradNorm: number;
  lr: number;
  applied: boolean; // false: voted down (non-finite)
  tokens: number;
  images: number;
  videos: number;
  stepSeconds: number;
  computeSeconds: number;
  commWaitSeconds: number;
  dataWaitSeconds: number;
  snapshotSeconds: number;
  memoryPeakBytes: number;
  packFill: number; // 0..1
  unreadable: number; // samples with weight 0 in this step
  replicatedStep: number; // newest step of this generation that every rank has in two places; 0: none
}
