import { totalmem } from "node:os";
import { memoryShare } from "../job/memory_share.js";

/** What each of so many agents may take of this machine, or of the container that this process runs in. */
export function nodeMemoryBytes(agents: number): number {
  return memoryShare({ machineBytes: totalmem(), limitBytes: process.constrainedMemory(), agents });
}
