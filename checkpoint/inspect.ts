import type { StateMeta } from "./state.js";
import type { Storage } from "./storage/storage.js";

export interface InspectReport {
  uri: string;
  meta: StateMeta;
  committedAt: string;
  bytes: number;
  elementCount: number;
  tensors: { name: string; shape: readonly number[]; count: number; bytes: number; intervalCount: number }[];
  files: { name: string; writer: number; bytes: number; intervalCount: number }[];
  intervals: {
    tensor: string;
    start: number;
    length: number;
    file: string;
    offset: number;
    bytes: number;
    chunkCount: number;
  }[];
}
/** What a checkpoint holds, where, without reading tensor data. */
export declare function inspectCheckpoint(
  uri: string | Storage,
  step?: number | null,
): Promise<InspectReport>;
