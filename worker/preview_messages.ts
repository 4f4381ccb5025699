import type { StateName } from "../checkpoint/state.js";
import type { ErrorCode } from "../job/errors.js";
import type { Job } from "../job/job.js";
import type { PeerAccess } from "./peer_channel.js";
import type { MemorySource } from "./rank_messages.js";

/** The whole contract between an agent and the process that draws a preview (Node IPC, structured clones). */
export interface ToPreview {
  kind: "draw";
  job: Job;
  jobId: string;
  /** Whole in the memory of the job's nodes, and pinned there until `read`. */
  source: MemorySource;
  /** For what is read from other nodes. */
  peers: PeerAccess;
  /** An empty folder of its own; whoever starts the process removes it. */
  scratch: string;
  /** It ends with MEMORY_SHORT rather than take more. */
  bytesMax: number;
}

export type FromPreview =
  | { kind: "booted" }
  /** All weights are in this process's own memory. */
  | { kind: "read"; state: StateName }
  | {
      kind: "drawn";
      state: StateName;
      /** Of its folder. */
      uri: string;
      bytes: number;
      seconds: number;
      /** High-water mark of this process's memory. */
      peakBytes: number;
    }
  | { kind: "failed"; code: ErrorCode; message: string };
