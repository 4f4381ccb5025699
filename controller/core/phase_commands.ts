import type { RankEndpoint, Restore } from "../../gen/goku/v1/agent.pb.js";
import type { StateName as WireState } from "../../gen/goku/v1/common.pb.js";
import type { RestoreChoice } from "./choose_restore.js";
import type { Command, StateName } from "./contract.js";
import type { GenerationState, JobState } from "./state.js";

/** What the present phase of a generation asks of one node; null: nothing yet. */
export function phaseCommand(job: JobState, generation: GenerationState, nodeId: string): Command | null {
  const number = BigInt(generation.number);
  switch (generation.stage) {
    case "prepare": {
      const { dpReplicate, dpShard, sp } = generation.layout;
      const value = {
        generation: number,
        jobId: job.record.jobId,
        job: job.record.job,
        layout: { dpReplicate, dpShard, sp },
        ranks: generation.nodeRanks.get(nodeId)!,
      };
      return { $case: "prepare", value };
    }
    case "connect":
      return {
        $case: "connect",
        value: { generation: number, members: generation.endpoints as RankEndpoint[] },
      };
    case "restore":
      return { $case: "restore", value: { generation: number, source: wireSource(generation.restore!) } };
    case "run":
      return { $case: "run", value: { generation: number } };
    case "persisting":
    case "adopt":
      return null;
  }
}

type SomeChoice = Exclude<RestoreChoice, { kind: "none" }>;

function wireSource(choice: SomeChoice): Restore["source"] {
  switch (choice.kind) {
    case "initial":
      return { $case: "initial", value: true };
    case "snapshot":
      return { $case: "snapshot", value: wireState(choice.state) };
    case "checkpoint":
      return {
        $case: "checkpoint",
        value: { uri: choice.source.uri, state: wireState(choice.source.state) },
      };
  }
}

function wireState(state: StateName): WireState {
  return { generation: BigInt(state.generation), step: BigInt(state.step) };
}

/** The state that every rank holds once it has restored. */
export function stateOf(choice: SomeChoice): StateName {
  if (choice.kind === "initial") return { generation: 0, step: 0 };
  return choice.kind === "snapshot" ? choice.state : choice.source.state;
}
