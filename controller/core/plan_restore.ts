import { modelConfig } from "../../job/job.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits } from "../../job/sharding.js";
import { chooseRestore, type RestoreChoice } from "./choose_restore.js";
import { heldFor } from "./members.js";
import type { MemoryNode } from "./memory_states.js";
import { restorePlaces } from "./restore_places.js";
import type { GenerationState, JobState } from "./state.js";
import type { Turn } from "./turn.js";

/** What the connected ranks of a generation restore, and what each node reads where; kept, so that repeats say the same. */
export function planRestore(turn: Turn, job: JobState): RestoreChoice {
  const generation = job.generation!;
  const { layout, rankNodes } = generation;
  const choice = chooseRestore({
    layout,
    rankNodes,
    nodes: memoryNodes(turn, job, generation),
    checkpoints: job.checkpoints,
    source: job.record.source,
    excludedSnapshots: job.excludedSnapshots,
    excludedCheckpoints: job.excludedCheckpoints,
  });
  if (choice.kind === "none") return choice;
  generation.restore = choice;
  if (choice.kind === "snapshot") {
    const units = flatUnits(parameterSpecs(modelConfig(job.record.job)));
    generation.places = restorePlaces({ layout, rankNodes, memory: choice.memory, units });
  }
  return choice;
}

/** What the memory of the members holds: of its ranks as a node said when they were ready, of others as it said before. */
function memoryNodes(turn: Turn, job: JobState, generation: GenerationState): MemoryNode[] {
  const layout = generation.layout.toString();
  return [...generation.nodeRanks].map(([nodeId, ranks]) => {
    const node = turn.state.nodes.get(nodeId)!;
    const own = new Set(ranks);
    const others = heldFor(job, node).filter((held) => held.layout !== layout || !own.has(held.rank));
    const told = ranks.flatMap((rank) => generation.states[rank]!.map((state) => ({ state, rank, layout })));
    return { nodeId, serves: node.peerPort > 0, held: [...told, ...others] };
  });
}
