import { readFileSync, renameSync, writeFileSync } from "node:fs";
import type { Fence } from "./fence.js";

/** What the next incarnation of this node's agent must know: which job it serves, and what was obeyed. */
export interface NodeRecord {
  /** Null: none. */
  jobId: string | null;
  fence: Fence;
}

export const EMPTY_RECORD: NodeRecord = { jobId: null, fence: { term: 0n, commandId: 0n, generation: 0n } };

/** A record that is missing or unreadable counts as empty: the machine was restarted, and its memory is gone as well. */
export function readNodeRecord(file: string): NodeRecord {
  try {
    const { jobId, term, commandId, generation } = JSON.parse(readFileSync(file, "utf8")) as Record<
      string,
      string | null
    >;
    const fence = {
      term: BigInt(term ?? 0),
      commandId: BigInt(commandId ?? 0),
      generation: BigInt(generation ?? 0),
    };
    return { jobId: typeof jobId === "string" ? jobId : null, fence };
  } catch {
    return EMPTY_RECORD;
  }
}

export function writeNodeRecord(file: string, { jobId, fence }: NodeRecord): void {
  const { term, commandId, generation } = fence;
  const text = JSON.stringify({
    jobId,
    term: String(term),
    commandId: String(commandId),
    generation: String(generation),
  });
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}
