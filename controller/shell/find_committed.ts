import { listCheckpoints } from "../../checkpoint/load.js";
import type { FoundCheckpoint } from "../core/contract.js";

/** What is committed under a run's root, as the core knows checkpoints. A folder whose commit record is damaged is left out. */
export async function findCommitted(uri: string): Promise<FoundCheckpoint[]> {
  const entries = await listCheckpoints(uri);
  return entries.map(({ uri: folder, state, bytes, committedAt }) => ({
    uri: folder,
    state: { generation: Number(state.generation), step: state.step },
    bytes,
    committedAtMs: Date.parse(committedAt),
  }));
}
