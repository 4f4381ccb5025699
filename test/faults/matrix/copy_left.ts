import { readdirSync } from "node:fs";
import path from "node:path";
import { listCheckpoints } from "../../../checkpoint/load.js";
import { verifySnapshot } from "../../../checkpoint/snapshot.js";
import type { HeldSnapshot } from "../../../worker/agent/snapshot_sets.js";
import { SnapshotStore } from "../../../worker/agent/snapshot_store.js";
import type { CopyLeft } from "./cell.js";

/**
 * The newest state that lies whole for every rank in what is left of the nodes' memory, or is durable. Asks neither
 * controller nor agents: it reads their files, and every byte of them, as they lie now.
 * @param options.generationMost states that a later generation computed are of no account
 */
export async function copyLeft(options: {
  stateDir: string;
  jobId: string;
  worldSize: number;
  checkpointUri: string;
  generationMost: number;
  /** Nodes that count as gone already. */
  without?: readonly string[];
}): Promise<CopyLeft> {
  const memory = await newestWhole(options);
  const durable = await newestDurable(options);
  if (memory > 0 && memory >= durable) return { step: memory, where: "memory" };
  return durable > 0 ? { step: durable, where: "checkpoint" } : { step: 0, where: "initial values" };
}

async function newestWhole(options: Parameters<typeof copyLeft>[0]): Promise<number> {
  const { stateDir, jobId, worldSize, generationMost } = options;
  const nodes = readdirSync(stateDir).filter((node) => !options.without?.includes(node));
  const held = nodes.flatMap((node) => heldBy(path.join(stateDir, node), jobId));
  const ranksOf = new Map<string, Set<number>>();
  for (const { path: file, state, rank, layout } of held) {
    if (BigInt(state.generation) > BigInt(generationMost)) continue;
    if ((await verifySnapshot(file)) !== null) continue;
    const key = `${layout} ${state.generation} ${state.step}`;
    ranksOf.set(key, (ranksOf.get(key) ?? new Set()).add(rank));
  }
  const whole = [...ranksOf].filter(([, ranks]) => ranks.size === worldSize);
  return Math.max(0, ...whole.map(([key]) => Number(key.split(" ")[2])));
}

/** Whole by their headers, of ranks and replicas alike. */
export function heldBy(nodeFolder: string, jobId: string): HeldSnapshot[] {
  return new SnapshotStore(path.join(nodeFolder, "snapshots")).sets(jobId).flatMap((set) => set.held);
}

async function newestDurable(options: Parameters<typeof copyLeft>[0]): Promise<number> {
  const { checkpointUri, generationMost } = options;
  const committed = await listCheckpoints(checkpointUri).catch(() => []); // there is no folder yet
  const earlier = committed.filter(({ state }) => BigInt(state.generation) <= BigInt(generationMost));
  return Math.max(0, ...earlier.map(({ state }) => state.step));
}
