/** A living rank process as the plan sees it. */
export interface LivingProcess {
  /** Key of the process. */
  id: number;
  /** World rank it holds or held last; null: none yet (a spare). */
  rank: number | null;
}

export interface ProcessPlan {
  /** Who takes which rank; `id` null: a process must be started. */
  places: { rank: number; id: number | null }[];
  /** Processes to end. */
  surplus: number[];
}

/**
 * Which processes take the ranks of a new generation. A process that held the same rank keeps it: its memory then holds
 * the right shards. Then processes that hold another rank, then spares, take what is left, and only then are new ones
 * started. Of the rest `sparesKept` spares stay; everything else is surplus. Pure.
 */
export function planProcesses(options: {
  ranks: readonly number[];
  living: readonly LivingProcess[];
  sparesKept: number;
}): ProcessPlan {
  const { ranks, living, sparesKept } = options;
  const taken = new Map<number, number>();
  for (const { id, rank } of living) {
    if (rank !== null && ranks.includes(rank) && !taken.has(rank)) taken.set(rank, id);
  }
  const used = new Set(taken.values());
  const others = living.filter((process) => !used.has(process.id));
  const free = [...others.filter((p) => p.rank !== null), ...others.filter((p) => p.rank === null)];
  const places = ranks.map((rank) => ({ rank, id: taken.get(rank) ?? free.shift()?.id ?? null }));
  const spares = free.filter((process) => process.rank === null);
  const kept = new Set(spares.slice(0, sparesKept).map((process) => process.id));
  return { places, surplus: free.filter((process) => !kept.has(process.id)).map((process) => process.id) };
}

/** Of its own, where nothing is open yet: 33 MiB are private to it, 78 MiB resident with what all share (measured). */
const WARM_BYTES = 40 * 2 ** 20;
/** Of the node's memory, that processes which only wait may take. */
const WARM_SHARE = 1 / 16;

/**
 * Processes that wait for a place: one for each slot that the node may be asked for beside its ranks, and one for a rank that
 * dies, within a part of its memory. Pure.
 */
export function warmCount(options: { slots: number; ranks: number; memoryBytes: number }): number {
  const { slots, ranks, memoryBytes } = options;
  const affordable = Math.floor((WARM_SHARE * memoryBytes) / WARM_BYTES);
  return Math.max(1, Math.min(slots - ranks, affordable));
}

/** OpenMP threads of each rank, so that the ranks of this node fill its cores and no more; at least 1. */
export function threadsPerRank(options: { cores: number; ranks: number }): number {
  return Math.max(1, Math.floor(options.cores / Math.max(1, options.ranks)));
}
