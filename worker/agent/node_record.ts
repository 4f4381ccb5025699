import { readFileSync, renameSync, writeFileSync } from "node:fs";
import type { StateName } from "../../checkpoint/state.js";
import { GENERATION } from "../../checkpoint/state_json.js";

/** What the next incarnation of this node's agent says in its Hello. */
export interface NodeRecord {
  /** Job whose snapshots the node holds; null: none. */
  jobId: string | null;
  /** Newest generation prepared for it. */
  generation: bigint;
  /** What nodes of the job show each other: those snapshots can be read before the next Prepare, or without one. Null: not known. */
  peerSecret: string | null;
  /** Newest state of the job that its ranks told to be in two places everywhere; null: none. */
  replicated: StateName | null;
}

export const EMPTY_RECORD: NodeRecord = { jobId: null, generation: 0n, peerSecret: null, replicated: null };

/** A record that is missing or unreadable counts as empty: the machine was restarted, and its memory is gone as well. */
export function readNodeRecord(file: string): NodeRecord {
  try {
    const fields = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
    const { jobId, generation, peerSecret, replicated } = fields;
    if (typeof jobId !== "string" || typeof generation !== "string") return EMPTY_RECORD;
    const secret = typeof peerSecret === "string" ? peerSecret : null;
    return {
      jobId,
      generation: BigInt(generation),
      peerSecret: secret,
      replicated: isStateName(replicated) ? replicated : null,
    };
  } catch {
    return EMPTY_RECORD;
  }
}

/** Older records have none. */
function isStateName(found: unknown): found is StateName {
  const { generation, step } = (found ?? {}) as Record<string, unknown>;
  return typeof generation === "string" && GENERATION.test(generation) && Number.isSafeInteger(step);
}

/** Read by nobody else: with the secret others of the cluster would answer. */
export function writeNodeRecord(file: string, { generation, ...others }: NodeRecord): void {
  const text = JSON.stringify({ generation: String(generation), ...others });
  writeFileSync(`${file}.new`, text, { mode: 0o600 });
  renameSync(`${file}.new`, file);
}
