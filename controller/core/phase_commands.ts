import type {
  Prepare,
  Restore,
  SnapshotPlace,
  CheckpointSource as WireCheckpoint,
} from "../../gen/goku/v1/agent.pb.js";
import type { Layout as WireLayout, StateName as WireState } from "../../gen/goku/v1/common.pb.js";
import type { Layout } from "../../job/layout.js";
import type { RestoreChoice } from "./choose_restore.js";
import type { CheckpointSource, Command, StateName } from "./contract.js";
import type { RestorePlace } from "./restore_places.js";
import type { GenerationState, JobState, NodeState } from "./state.js";

type Nodes = ReadonlyMap<string, NodeState>;

/** What the present phase of the job's generation asks of one node; null: nothing yet. @param nodes all its members */
export function phaseCommand(nodes: Nodes, job: JobState, nodeId: string): Command | null {
  const generation = job.generation!;
  const number = BigInt(generation.number);
  switch (generation.stage) {
    case "prepare":
      return { $case: "prepare", value: prepareOf(nodes, job, generation, nodeId) };
    case "connect":
      return { $case: "connect", value: generation.connect! };
    case "restore":
      return {
        $case: "restore",
        value: {
          generation: number,
          source: sourceOf(nodes, generation, nodeId),
          rollBacks: job.record.rollBacks.map(({ first, last }) => ({
            first: BigInt(first),
            last: BigInt(last),
          })),
        },
      };
    case "run":
      return { $case: "run", value: { generation: number } };
    case "persisting":
    case "adopt":
      return null;
  }
}

function prepareOf(nodes: Nodes, job: JobState, generation: GenerationState, nodeId: string): Prepare {
  const { keepers, kept } = generation.keepers!;
  const ranks = generation.nodeRanks.get(nodeId)!;
  const replicas = ranks.flatMap((rank) => {
    const keeper = keepers[rank];
    return keeper == null ? [] : [wirePlace(nodes, { rank, nodeId: keeper })];
  });
  return {
    generation: BigInt(generation.number),
    jobId: job.record.jobId,
    job: job.record.job,
    layout: wireLayout(generation.layout),
    ranks,
    replicate: kept.size > 0,
    replicas,
    keeps: [...(kept.get(nodeId) ?? [])],
    restarts: job.restarts,
    stepHighest: BigInt(job.stepHighest),
    device: generation.device,
    // The shell's: decisions need neither.
    peerSecret: "",
    recentSteps: [],
  };
}

type SomeChoice = Exclude<RestoreChoice, { kind: "none" }>;

function sourceOf(nodes: Nodes, generation: GenerationState, nodeId: string): Restore["source"] {
  const choice = generation.restore!;
  switch (choice.kind) {
    case "initial":
      return { $case: "initial", value: true };
    case "snapshot": {
      const places = generation.places.get(nodeId) ?? [];
      return {
        $case: "snapshot",
        value: {
          state: wireState(choice.state),
          layout: wireLayout(choice.memory.layout),
          places: places.map((place) => wirePlace(nodes, place)),
          durable: choice.durable === null ? undefined : wireCheckpoint(choice.durable),
        },
      };
    }
    case "checkpoint":
      return { $case: "checkpoint", value: wireCheckpoint(choice.source) };
  }
}

/** With the address at which its node is read. */
export function wirePlace(nodes: Nodes, { rank, nodeId }: RestorePlace): SnapshotPlace {
  const { host, peerPort } = nodes.get(nodeId)!;
  return { rank, nodeId, host, port: peerPort };
}

function wireCheckpoint({ uri, state }: CheckpointSource): WireCheckpoint {
  return { uri, state: wireState(state) };
}

function wireLayout({ dpReplicate, dpShard, sp }: Layout): WireLayout {
  return { dpReplicate, dpShard, sp };
}

export function wireState(state: StateName): WireState {
  return { generation: BigInt(state.generation), step: BigInt(state.step) };
}

/** The state that every rank holds once it has restored. */
export function stateOf(choice: SomeChoice): StateName {
  if (choice.kind === "initial") return { generation: 0, step: 0 };
  return choice.kind === "snapshot" ? choice.state : choice.source.state;
}
