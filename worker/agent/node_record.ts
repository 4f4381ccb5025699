import { readFileSync, renameSync, writeFileSync } from "node:fs";

/** What the next incarnation of this node's agent says in its Hello. */
export interface NodeRecord {
  /** Job whose snapshots the node holds; null: none. */
  jobId: string | null;
  /** Newest generation prepared for it. */
  generation: bigint;
  /** What nodes of the job show each other: those snapshots can be read before the next Prepare, or without one. Null: not known. */
  peerSecret: string | null;
}

export const EMPTY_RECORD: NodeRecord = { jobId: null, generation: 0n, peerSecret: null };

/** A record that is missing or unreadable counts as empty: the machine was restarted, and its memory is gone as well. */
export function readNodeRecord(file: string): NodeRecord {
  try {
    const { jobId, generation, peerSecret } = JSON.parse(readFileSync(file, "utf8")) as Record<
      string,
      unknown
    >;
    if (typeof jobId !== "string" || typeof generation !== "string") return EMPTY_RECORD;
    const secret = typeof peerSecret === "string" ? peerSecret : null;
    return { jobId, generation: BigInt(generation), peerSecret: secret };
  } catch {
    return EMPTY_RECORD;
  }
}

/** Read by nobody else: with the secret others of the cluster would answer. */
export function writeNodeRecord(file: string, { jobId, generation, peerSecret }: NodeRecord): void {
  const text = JSON.stringify({ jobId, generation: String(generation), peerSecret });
  writeFileSync(`${file}.new`, text, { mode: 0o600 });
  renameSync(`${file}.new`, file);
}
