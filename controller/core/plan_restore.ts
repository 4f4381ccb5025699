import { isCommandJob } from "../../job/command_job.js";
import { modelConfig } from "../../job/job.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits } from "../../job/sharding.js";
import { chooseRestore, type RestoreChoice } from "./choose_restore.js";
import { formerNodes } from "./former.js";
import { heldFor, usualStepMs } from "./members.js";
import type { MemoryNode } from "./memory_states.js";
import { stateOf } from "./phase_commands.js";
import { restorePlaces } from "./restore_places.js";
import { isGivenUp } from "./roll_back.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { compareStates } from "./state_name.js";
import type { Turn } from "./turn.js";

/** What it costs to find out that nobody answers: the silence of a read, and one generation more. */
const TRY_MS = 12_000;

/** What the connected ranks of a generation would restore. */
export function planRestore(turn: Turn, job: JobState): RestoreChoice {
  const generation = job.generation!;
  const { layout, rankNodes } = generation;
  const { job: spec } = job.record;
  if (isCommandJob(spec)) {
    return { kind: "initial", reason: "nothing: its program restores its own checkpoints" };
  }
  const { inSight, outOfSight } = formerNodes(turn, job);
  const choose = (former: readonly NodeState[]) =>
    chooseRestore({
      layout,
      rankNodes,
      nodes: [...memberNodes(turn, job, generation), ...former.map((node) => servingNode(job, node))],
      checkpoints: job.checkpoints,
      source: job.record.source,
      isGivenUp: (state) => isGivenUp(job.record.rollBacks, state),
      excludedSnapshots: job.excludedSnapshots,
      excludedCheckpoints: job.excludedCheckpoints,
    });
  const sure = choose(inSight);
  const tried = outOfSight.length > 0 ? choose([...inSight, ...outOfSight]) : sure;
  return isWorthTrying({ sure, tried, stepMs: usualStepMs(job) }) ? tried : sure;
}

/** It is chosen; with what each node reads where, so that repeats say the same. */
export function keepChoice(job: JobState, choice: Exclude<RestoreChoice, { kind: "none" }>): void {
  const generation = job.generation!;
  const { layout, rankNodes } = generation;
  const { job: spec } = job.record;
  generation.restore = choice;
  if (choice.kind !== "snapshot" || isCommandJob(spec)) return;
  const units = flatUnits(parameterSpecs(modelConfig(spec)));
  generation.places = restorePlaces({ layout, rankNodes, memory: choice.memory, units });
}

/** What the memory of the members holds: of its ranks as a node said when they were ready, of others as it said before. */
function memberNodes(turn: Turn, job: JobState, generation: GenerationState): MemoryNode[] {
  const layout = generation.layout.toString();
  return [...generation.nodeRanks].map(([nodeId, ranks]) => {
    const node = turn.state.nodes.get(nodeId)!;
    const own = new Set(ranks);
    const others = heldFor(job, node).filter((held) => held.layout !== layout || !own.has(held.rank));
    const told = ranks.flatMap((rank) =>
      generation.states[rank]!.filter((state) => !isGivenUp(job.record.rollBacks, state)).map((state) => ({
        state,
        rank,
        layout,
      })),
    );
    return { nodeId, serves: node.peerPort > 0, held: [...told, ...others] };
  });
}

/** A node without a place that serves what it holds. */
function servingNode(job: JobState, node: NodeState): MemoryNode {
  return { nodeId: node.nodeId, serves: true, held: heldFor(job, node) };
}

/**
 * Whether to read from nodes that the controller cannot reach: their peers may, and where the node is lost the try costs no more
 * than the steps that it might have saved.
 */
export function isWorthTrying(options: {
  sure: RestoreChoice;
  tried: RestoreChoice;
  stepMs: number;
}): boolean {
  const { sure, tried, stepMs } = options;
  if (tried.kind !== "snapshot") return false;
  if (sure.kind === "none") return true;
  const kept = stateOf(sure);
  return compareStates(tried.state, kept) > 0 && (tried.state.step - kept.step) * stepMs >= TRY_MS;
}
