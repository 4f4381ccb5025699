import type { RestoredPart } from "../checkpoint/read_memory.js";
import type { StateName } from "../checkpoint/state.js";
import type { CommandJob } from "../job/command_job.js";
import type { Device } from "../job/device.js";
import type { ErrorCode } from "../job/errors.js";
import type { Job } from "../job/job.js";
import type { LayoutSize } from "../job/layout.js";
import type { LeftOutReason } from "../job/left_out.js";
import type { SpikeNews } from "../job/spikes.js";
import type { CommEndpoint } from "./engine/native.js";
import type { PeerAccess } from "./peer_channel.js";
import type { CollectiveWaits } from "./progress.js";

/**
 * The whole contract between an agent and its rank processes (Node IPC, structured clones).
 * An agent message of an older generation than the rank's is ignored; a rank stamps the generation it acts for.
 */
export type ToRank =
  /** Take a place. A running rank has been aborted through the control page first. */
  | ({
      kind: "prepare";
      job: Job;
      controlPage: string; // path of a tmpfs file
      /** The set of slot files of this rank; may hold snapshots of an earlier process, which the rank adopts. */
      snapshotDir: string;
      /** All states in that set whose durable write is under way; `unpin` follows once for each, and for no other. */
      pinned: StateName[];
      /** Some rank of the world copies its state to another node: all of them keep the state that is being copied. */
      replicate: boolean;
      /** The newest state that all ranks had in two places, as far as this node knows; kept until there is a newer one. */
      kept: StateName | null;
      /** For what is read from other nodes. */
      peers: PeerAccess;
      /** What all ranks of this node may take together, of a machine that several agents may share. */
      memoryBytes: number;
      /** The GPU it computes on; null: the CPU. */
      gpu: GpuPlace | null;
    } & RankPlace)
  /** Take a place as the keeper of a program of its own, which `run` starts; no state of it is kept. */
  | ({ kind: "prepareProgram"; job: CommandJob; heartbeatFile: string; stepHighest: number } & RankPlace)
  /** To a spare: a place in this job, which trains on the data with this digest, is likely to be its next one. */
  | { kind: "warm"; job: Job; dataDigest: string; device: Device }
  | { kind: "connect"; generation: string; members: CommEndpoint[] }
  | { kind: "restore"; generation: string; source: RestoreSource; rollBacks: RollBackSteps[] }
  | { kind: "run"; generation: string }
  /** Leave this generation and wait; answered by `failed` with COMM_ABORTED unless the rank has left already. */
  | { kind: "abort"; generation: string; code: string; message: string; peer: number }
  /** Raised in the next vote, so that it happens at one step on all ranks. */
  | { kind: "request"; request: RankRequest }
  /**
   * The durable write of this state is over (either way): one answer to each `save`, and to each entry of `pinned`.
   * That of a final save comes when the checkpoint is committed, or with what makes that impossible.
   */
  | { kind: "unpin"; state: StateName; error: { code: ErrorCode; message: string } | null }
  /** Nobody reads this state for a preview any more. */
  | { kind: "previewRead"; state: StateName }
  /** Answer to `replicate`; `whole`: another node has the state, or this rank needs no copy. Else it cannot be made. */
  | { kind: "replicated"; state: StateName; whole: boolean };

/** A device of the node as one of its ranks is to use it. */
export interface GpuPlace {
  /** For CUDA_VISIBLE_DEVICES; the same in all generations that the process has a place in. */
  visible: string;
  /** Of the device, and the ranks of this node that share it. */
  memoryBytes: number;
  ranks: number;
}

/** What every rank is told of its place in a generation. */
export interface RankPlace {
  generation: string; // decimal u64
  jobId: string;
  layout: LayoutSize;
  rank: number;
  localRank: number;
  localWorldSize: number;
  nodeId: string;
  host: string; // address to listen on for collectives
  progressPage: string; // path of a tmpfs file
  threads: number;
  /** Generations of the job before this one. */
  restarts: number;
}

/** `yield`: end this generation, not the run, with the state in memory: another layout goes on from it. */
export type RankRequest = "save" | "stop" | "yield";
/** Why a rank ended its generation in order. */
export type EndReason = "steps" | "stop" | "yield";

export type RestoreSource =
  | { kind: "initial" }
  | ({ kind: "snapshot" } & MemorySource)
  | { kind: "checkpoint"; uri: string; state: StateName };

/** Steps that are not computed: the state after the last has the weights of the one before the first. */
export interface RollBackSteps {
  first: number;
  last: number;
}

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
  /** A program of its own runs in a session that ends with this process; null: none any more. */
  | { kind: "program"; session: number | null }
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
  /** A vote of this generation found the state in two places for every rank; told at once, whether another copy begins or not. */
  | { kind: "confirmed"; generation: string; rank: number; state: StateName }
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
  /**
   * Of rank 0: a preview of this state is due. It is whole on every rank, and pinned where it is to be read, until
   * `previewRead`. `skipped`: why it cannot be drawn; null: it can.
   */
  | { kind: "preview"; generation: string; rank: number; state: StateName; skipped: string | null }
  /** The state could not be copied into a slot; training goes on without. Once, until a copy succeeds again. */
  | {
      kind: "snapshotFailed";
      generation: string;
      rank: number;
      state: StateName;
      code: ErrorCode;
      message: string;
    }
  /** Ranks that hold the same shard do not hold the same bits; `equalStep`: the last step whose states were the same, -1: not known. */
  | {
      kind: "twinsDiffer";
      generation: string;
      rank: number;
      state: StateName;
      difference: {
        odd: number[]; // ranks that most of their twins contradict
        ranks: number[];
        tensor: string; // for example model/blocks.0.attn.qkv; of it elements [start, start+length), f32
        start: number;
        length: number;
        chunks: number; // of a MiB, that differ
      };
      equalStep: number;
    }
  | { kind: "finished"; generation: string; rank: number; state: StateName; reason: EndReason }
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
  loss: number | null; // null: a program of its own has not told it
  gradNorm: number | null;
  lr: number;
  applied: boolean; // false: voted down
  tokens: number;
  images: number;
  videos: number;
  stepSeconds: number;
  computeSeconds: number;
  commWaitSeconds: number;
  dataWaitSeconds: number;
  snapshotSeconds: number;
  optimizerSeconds: number;
  waits: CollectiveWaits | null; // parts of commWaitSeconds; null: a program of its own
  longestPauseSeconds: number; // between two signs of life of this rank itself; 0: not known
  modelFlops: number; // of all ranks, forward and backward without what is recomputed; 0: not known
  completedMs: number; // Unix milliseconds
  memoryPeakBytes: number;
  packFill: number; // 0..1
  unreadable: number; // samples with weight 0 in this step
  replicatedStep: number; // newest step of this generation that every rank has in two places; 0: none
  /** The numbers were bad at first and the step was computed again (worker/rank/judge_replay.ts); null: they were not. */
  replay: {
    packs: number[];
    lossRanks: number[];
    normRanks: number[];
    homeRanks: number[];
    loss: { value: number; limit: number; median: number } | null;
    gradient: { value: number; limit: number; median: number } | null;
  } | null;
  /** What the numbers that counted are, against those of the steps before. */
  lossSpike: SpikeNews | null;
  gradientSpike: SpikeNews | null;
  /** Why its packs are left out; null: they are not, or `rollBack`. */
  leftOut: LeftOutReason | null;
  /** The generation ends with this step, which is none of the run. */
  rollBack: RollBackSteps | null;
  snapshotSkipped: boolean; // a snapshot was due, and some rank had no slot free
  savePutOff: boolean; // a durable save that was due, or begun a step ago, is made later
}
