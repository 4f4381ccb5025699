import { findCheckpoint, listCheckpoints } from "../../checkpoint/load.js";
import { GokuError } from "../../job/errors.js";
import type { CheckpointSource, FoundCheckpoint } from "../core/contract.js";
import { sameState } from "../core/state_name.js";

/**
 * What is committed under a run's root, as the core knows checkpoints; a folder whose commit record is damaged is left out. Of what
 * was known of it and is not listed each is looked for by itself, since listings of a network file system may be old: `gone` are
 * those that are not there. None where nothing at all is listed: that is how a mount looks that is missing here, and ranks may
 * have theirs.
 */
export async function findCommitted(
  uri: string,
  known: readonly CheckpointSource[],
): Promise<{ found: FoundCheckpoint[]; gone: CheckpointSource[] }> {
  const found = await listCommitted(uri);
  const unlisted = known.filter(({ state }) => !found.some((each) => sameState(each.state, state)));
  if (found.length === 0) return { found, gone: [] };
  const gone: CheckpointSource[] = [];
  for (const each of unlisted) if (await isGone(each)) gone.push(each);
  return { found, gone };
}

async function isGone({ uri, state }: CheckpointSource): Promise<boolean> {
  try {
    await findCheckpoint(uri, { ...state, generation: String(state.generation) });
    return false;
  } catch (error) {
    return error instanceof GokuError && error.code === "NOT_FOUND";
  }
}

async function listCommitted(uri: string): Promise<FoundCheckpoint[]> {
  const entries = await listCheckpoints(uri);
  return entries.map(({ uri: folder, state, bytes, committedAt }) => ({
    uri: folder,
    state: { generation: Number(state.generation), step: state.step },
    bytes,
    committedAtMs: Date.parse(committedAt),
  }));
}
