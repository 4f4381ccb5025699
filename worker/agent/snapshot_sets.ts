import { type StateName, stateKey } from "../../checkpoint/state.js";

/** A whole snapshot found in a slot file. */
export interface HeldSnapshot {
  path: string;
  bytes: number;
  state: StateName;
  rank: number;
  /** As text, for example 1x2x2. */
  layout: string;
}

/** The slot files of one rank incarnation: a folder of a job. */
export interface SnapshotSet {
  /** Folder. */
  path: string;
  /** Rank and layout it was made for. */
  rank: number;
  layout: string;
  /** Written by this agent, from what another node's sends: a copy that no rank works with. */
  replica: boolean;
  /** Key of the living process that writes it; null: its process is gone. */
  owner: number | null;
  /** Whole snapshots in it. */
  held: HeldSnapshot[];
}

/**
 * The set that a process takes for its rank: its own when it fits, else one whose process is gone, with the newest
 * snapshot, else null: a new one. A set whose writer lives is never given to another. Pure.
 */
export function chooseSet(options: {
  sets: readonly SnapshotSet[];
  process: number;
  rank: number;
  layout: string;
}): SnapshotSet | null {
  const { process, rank, layout } = options;
  const fitting = options.sets.filter((set) => !set.replica && set.rank === rank && set.layout === layout);
  const own = fitting.find((set) => set.owner === process);
  if (own) return own;
  const orphaned = fitting.filter((set) => set.owner === null);
  const newest = (set: SnapshotSet) => newestOf(set.held.map((held) => held.state));
  return orphaned.reduce<SnapshotSet | null>((best, set) => {
    if (best === null) return set;
    return compareStates(newest(set), newest(best)) > 0 ? set : best;
  }, null);
}

/** The snapshot of `state` for a rank in a layout, from its own set if it is there; null: this node has none. Pure. */
export function findHeld(
  sets: readonly SnapshotSet[],
  wanted: { state: StateName; rank: number; layout: string; ownSet: string },
): HeldSnapshot | null {
  const key = stateKey(wanted.state);
  const found = sets
    .flatMap((set) => set.held.map((held) => ({ set, held })))
    .filter(
      ({ held }) =>
        held.rank === wanted.rank && held.layout === wanted.layout && stateKey(held.state) === key,
    );
  return (found.find(({ set }) => set.path === wanted.ownSet) ?? found[0])?.held ?? null;
}

/** The newest state that these sets hold whole for every one of the ranks in a layout; null: there is none. Pure. */
export function newestHeld(
  sets: readonly SnapshotSet[],
  wanted: { ranks: readonly number[]; layout: string },
): StateName | null {
  const held = sets.flatMap((set) => set.held).filter(({ layout }) => layout === wanted.layout);
  const byAll = held.filter(({ state }) =>
    wanted.ranks.every((rank) =>
      held.some((other) => other.rank === rank && stateKey(other.state) === stateKey(state)),
    ),
  );
  return newestOf(byAll.map(({ state }) => state));
}

/** One entry for each (state, rank, layout), in a fixed order, so that two inventories can be compared as text. Pure. */
export function distinctHeld(sets: readonly SnapshotSet[]): HeldSnapshot[] {
  const byKey = new Map<string, HeldSnapshot>();
  for (const held of sets.flatMap((set) => set.held)) {
    byKey.set(`${held.layout} ${held.rank} ${stateKey(held.state)}`, held);
  }
  return [...byKey.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, held]) => held);
}

/**
 * Sets that are superseded: nobody owns them, and every rank of this node runs on a set of its own that holds a whole
 * snapshot, in a generation that has completed a step (so all ranks of the world do). Pure.
 */
export function supersededSets(options: {
  sets: readonly SnapshotSet[];
  /** Paths of the sets that the ranks of the running generation write. */
  running: readonly string[];
  stepCompleted: boolean;
}): string[] {
  const { sets, running, stepCompleted } = options;
  const covered = running.every((path) => (sets.find((set) => set.path === path)?.held.length ?? 0) > 0);
  if (!stepCompleted || running.length === 0 || !covered) return [];
  return sets
    .filter((set) => !set.replica && set.owner === null && !running.includes(set.path))
    .map((set) => set.path);
}

/** Copies of ranks whose copies this node no longer keeps. Pure. */
export function surplusReplicas(
  sets: readonly SnapshotSet[],
  kept: { ranks: readonly number[]; layout: string },
): string[] {
  return sets
    .filter((set) => set.replica && !(set.layout === kept.layout && kept.ranks.includes(set.rank)))
    .map((set) => set.path);
}

/** Order of state names: generation, then step. */
export function compareStates(a: StateName | null, b: StateName | null): number {
  if (a === null || b === null) return Number(a !== null) - Number(b !== null);
  const generations = BigInt(a.generation) - BigInt(b.generation);
  if (generations !== 0n) return generations > 0n ? 1 : -1;
  return a.step - b.step;
}

function newestOf(states: readonly StateName[]): StateName | null {
  return states.reduce<StateName | null>(
    (best, state) => (compareStates(state, best) > 0 ? state : best),
    null,
  );
}

/** Of whole snapshots. Pure. */
export function heldBytes(sets: readonly SnapshotSet[]): number {
  return sets.flatMap(({ held }) => held).reduce((sum, { bytes }) => sum + bytes, 0);
}
