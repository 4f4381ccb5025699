import type { CheckpointEntry, CheckpointSource, StateName } from "./contract.js";
import { compareStates, stateKey, stateText } from "./state_name.js";

export type RestoreChoice =
  | { kind: "snapshot"; state: StateName; reason: string }
  | { kind: "checkpoint"; source: CheckpointSource; reason: string }
  | { kind: "initial"; reason: string }
  /** Something was committed and nothing of it can be read: starting over would throw it away silently. */
  | { kind: "none"; reason: string };

/**
 * The newest state that can be had whole. A snapshot counts only when *every* rank of the new assignment holds it on its
 * node in this layout, so states of different names never combine; a durable checkpoint serves any layout. The newer of
 * the two wins (generation, then step), the snapshot when equal: it is nearer. Then the checkpoint that the job was
 * submitted with, then initial values, which are right only for a job that never committed anything.
 */
export function chooseRestore(options: {
  /** Whole snapshots of each rank at its new place, by rank. */
  rankStates: readonly (readonly StateName[])[];
  checkpoints: readonly CheckpointEntry[];
  source: CheckpointSource | null;
  /** Keys of snapshots that failed to restore. */
  excludedSnapshots: ReadonlySet<string>;
  /** Addresses of checkpoints that failed to restore. */
  excludedCheckpoints: ReadonlySet<string>;
}): RestoreChoice {
  const { rankStates, source, excludedCheckpoints } = options;
  const snapshot = newestCommon(rankStates, options.excludedSnapshots);
  const durable = newestCheckpoint(options.checkpoints, excludedCheckpoints);
  if (snapshot !== null && (durable === null || compareStates(snapshot, durable.state) >= 0)) {
    const all = rankStates.length === 1 ? "its rank holds" : `all ${rankStates.length} ranks hold`;
    return {
      kind: "snapshot",
      state: snapshot,
      reason: `from memory, ${stateText(snapshot)}: the newest state that ${all}`,
    };
  }
  const without = missingText(rankStates, snapshot);
  if (durable !== null) {
    return {
      kind: "checkpoint",
      source: { uri: durable.uri, state: durable.state },
      reason: `from checkpoint ${durable.uri} (${stateText(durable.state)}): ${without}`,
    };
  }
  if (source !== null && !excludedCheckpoints.has(source.uri)) {
    return {
      kind: "checkpoint",
      source,
      reason: `from the checkpoint to resume, ${source.uri} (${stateText(source.state)})`,
    };
  }
  if (source === null && options.checkpoints.length === 0) {
    return { kind: "initial", reason: `initial values: ${without} and nothing has been made durable` };
  }
  return {
    kind: "none",
    reason: `Cannot restore any state: ${without}, and none of ${options.checkpoints.length + (source === null ? 0 : 1)} checkpoints can be read; repair one, or submit the job anew`,
  };
}

/** The newest state that every rank holds; null: none. */
export function newestCommon(
  rankStates: readonly (readonly StateName[])[],
  excluded: ReadonlySet<string>,
): StateName | null {
  const holders = new Map<string, { state: StateName; count: number }>();
  for (const states of rankStates) {
    for (const [key, state] of new Map(states.map((s) => [stateKey(s), s]))) {
      const held = holders.get(key);
      if (held) held.count += 1;
      else holders.set(key, { state, count: 1 });
    }
  }
  let newest: StateName | null = null;
  for (const [key, { state, count }] of holders) {
    if (count < rankStates.length || excluded.has(key)) continue;
    if (newest === null || compareStates(state, newest) > 0) newest = state;
  }
  return newest;
}

/** The newest checkpoint that may be restored from; null: none. */
export function newestCheckpoint(
  entries: readonly CheckpointEntry[],
  excluded: ReadonlySet<string>,
): CheckpointEntry | null {
  let newest: CheckpointEntry | null = null;
  for (const entry of entries) {
    if (entry.unusable !== null || excluded.has(entry.uri)) continue;
    if (newest === null || compareStates(entry.state, newest.state) >= 0) newest = entry;
  }
  return newest;
}

function missingText(rankStates: readonly (readonly StateName[])[], common: StateName | null): string {
  if (common !== null) return `memory holds only ${stateText(common)} on all ranks`;
  const empty = rankStates.flatMap((states, rank) => (states.length === 0 ? [rank] : []));
  if (empty.length === rankStates.length) return "no rank holds a snapshot";
  if (empty.length > 0) {
    const shown = empty.slice(0, 4).join(", ");
    const more = empty.length > 4 ? ` and ${empty.length - 4} more` : "";
    return `${empty.length === 1 ? "rank" : "ranks"} ${shown}${more} of ${rankStates.length} ${empty.length === 1 ? "holds" : "hold"} no snapshot`;
  }
  return "no snapshot is held by all ranks";
}
