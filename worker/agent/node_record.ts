import { readFileSync, renameSync, writeFileSync } from "node:fs";

/** What the next incarnation of this node's agent says in its Hello. */
export interface NodeRecord {
  /** Job whose snapshots the node holds; null: none. */
  jobId: string | null;
  /** Newest generation prepared for it. */
  generation: bigint;
}

const EMPTY: NodeRecord = { jobId: null, generation: 0n };

/** A record that is missing or unreadable counts as empty: the machine was restarted, and its memory is gone as well. */
export function readNodeRecord(file: string): NodeRecord {
  try {
    const { jobId, generation } = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
    if (typeof jobId !== "string" || typeof generation !== "string") return EMPTY;
    return { jobId, generation: BigInt(generation) };
  } catch {
    return EMPTY;
  }
}

export function writeNodeRecord(file: string, { jobId, generation }: NodeRecord): void {
  writeFileSync(`${file}.new`, JSON.stringify({ jobId, generation: String(generation) }));
  renameSync(`${file}.new`, file);
}
