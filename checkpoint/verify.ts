import type { StateName } from "./state.js";
import type { Storage } from "./storage/storage.js";

export interface BadChunk {
  /** File name inside the checkpoint's folder. */
  file: string;
  /** "<kind>/<parameter name>"; null where the bytes belong to no tensor (headers, manifests). */
  tensor: string | null;
  /** Number of the MiB within the interval of that tensor that the file holds. */
  chunk: number;
  /** Byte offset in the file. */
  offset: number;
  reason: string;
}
export interface VerifyReport {
  uri: string;
  /** Null when the commit record itself is unreadable. */
  state: StateName | null;
  bytes: number;
  chunkCount: number;
  bad: BadChunk[];
}
/** Reads every byte of a checkpoint (of the newest one, when given a run's root). NOT_FOUND when there is none. */
export declare function verifyCheckpoint(
  uri: string | Storage,
  onProgress?: (progress: { bytesDone: number; bytesTotal: number }) => void,
): Promise<VerifyReport>;
