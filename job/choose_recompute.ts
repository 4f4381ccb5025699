import type { Recompute } from "./block_memory.js";
import { FRAGMENT_FRACTION, GPU_FRACTION, PROCESS_MEMORY, SYSTEM_FRACTION } from "./process_memory.js";

/** Where a rank's tensors lie, and how much of it they may take. */
export interface TensorRoom {
  bytes: number;
  of: "node" | "GPU";
}

/** Pure. */
export function nodeRoom(options: {
  /** Of the node. */
  memoryBytes: number;
  /** Ranks of it. */
  ranks: number;
  /** What each needs beside its process and its tensors: snapshot slots, replicas kept for others, packs. */
  otherBytes: number;
}): TensorRoom {
  const { memoryBytes, ranks, otherBytes } = options;
  const ofRanks = memoryBytes * (1 - SYSTEM_FRACTION) - PROCESS_MEMORY.nodeBytes;
  return { bytes: Math.max(0, ofRanks / ranks - PROCESS_MEMORY.rankBytes - otherBytes), of: "node" };
}

/** Of a GPU that so many ranks share, each with a training state; snapshots lie in the node's memory. Pure. */
export function gpuRoom(options: { memoryBytes: number; ranks: number; stateBytes: number }): TensorRoom {
  const { memoryBytes, ranks, stateBytes } = options;
  return { bytes: Math.max(0, (memoryBytes * (1 - GPU_FRACTION)) / ranks - stateBytes), of: "GPU" };
}

/**
 * What `recompute: auto` is for a rank: selective, which costs a few hundredths of a step, or full where only that fits. Never none:
 * what it saves in time is less than what it takes in memory may cost. Pure.
 * @param options.tensorBytes of the rank at the widest moment of a step
 */
export function chooseRecompute(options: {
  room: TensorRoom;
  tensorBytes: (recompute: Recompute) => number;
}): {
  recompute: Recompute;
  reason: string;
} {
  const { room, tensorBytes } = options;
  const withFragments = (recompute: Recompute) => tensorBytes(recompute) * (1 + FRAGMENT_FRACTION);
  const needed = withFragments("selective");
  const has = `${mib(needed)} for a rank's tensors, the ${room.of} has room for ${mib(room.bytes)}`;
  if (needed <= room.bytes) return { recompute: "selective", reason: `selective needs ${has}` };
  return { recompute: "full", reason: `selective would need ${has}, full ${mib(withFragments("full"))}` };
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
