import { programOf } from "./program.js";
import type { GenerationState, JobState } from "./state.js";

/** How far a recovery had to go, from the cheapest on; unknown: it began before this controller led. */
export type Rung = "communicator" | "process" | "node" | "layout" | "checkpoint" | "initial" | "unknown";

/** Who held which rank when a fault was detected. */
export interface PlacesBefore {
  layout: string;
  nodes: ReadonlySet<string>;
  /** Process of each rank; 0: not known. */
  pids: Float64Array;
}

export function placesOf(generation: GenerationState): PlacesBefore {
  return {
    layout: generation.layout.toString(),
    nodes: new Set(generation.nodeRanks.keys()),
    pids: pidsOf(generation),
  };
}

/** What the recovery that has ended did: the dearest thing that differs from before. */
export function rungOf(job: JobState): Rung {
  const { generation, before } = job;
  if (generation === null || before === null) return "unknown";
  const restored = programOf(job) === null ? generation.restore?.kind : undefined;
  if (restored === "checkpoint" || restored === "initial") return restored;
  if (generation.layout.toString() !== before.layout) return "layout";
  for (const nodeId of generation.nodeRanks.keys()) if (!before.nodes.has(nodeId)) return "node";
  const isOther = (pid: number, rank: number) => before.pids[rank] !== 0 && before.pids[rank] !== pid;
  return pidsOf(generation).some(isOther) ? "process" : "communicator";
}

/** From what was told when ranks were ready; of a generation that was found running, from their pages. */
function pidsOf({ layout, endpoints, pages }: GenerationState): Float64Array {
  const pids = new Float64Array(layout.worldSize);
  for (const page of pages) if (page !== null) pids[page.rank] = page.pid;
  for (const { ranks, pids: told } of endpoints.values())
    for (const [at, rank] of ranks.entries()) pids[rank] = told[at] ?? 0;
  return pids;
}
