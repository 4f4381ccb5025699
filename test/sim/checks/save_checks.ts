import assert from "node:assert/strict";
import type { AgentMessage, Event } from "../../../controller/core/contract.js";
import type { CoreState, JobState } from "../../../controller/core/state.js";
import { compareStates, sameState, stateText } from "../../../controller/core/state_name.js";
import { plain } from "../../support/agent_messages.js";
import type { SimController } from "../sim_controller.js";
import type { TrainGroup } from "../train_group.js";

/** Votes by which a save that was promised has begun. */
const PROMISED_VOTES = 12;

interface Promised {
  group: TrainGroup;
  votes: number;
  step: number;
  /** Of all members: what is sent on a stream that breaks is lost, and a save is asked for once. */
  streams: number;
}

/** Saves: what failed is an alarm until a later one is durable, what was promised is begun. */
export class SaveChecks {
  #promised: Promised[] = [];

  /** A leader has taken in what an agent told of a save or of a copy. */
  stepped({ core }: SimController, event: Event): void {
    if (event.kind !== "agentMessage" || core?.leader?.ready !== true || core.raising) return;
    const { message, from } = event;
    const node = core.nodes.get(from.nodeId);
    if (node === undefined || node.session !== from.session) return;
    const job = core.jobs.get(node.jobId ?? node.heldJobId ?? "");
    if (job === undefined || job.record.outcome !== null) return;
    this.#told(core, job, message);
  }

  #told(_core: CoreState, job: JobState, message: AgentMessage): void {
    const { jobId } = job.record;
    if (message.$case === "checkpointFailed") {
      const state = plain(message.value.state!);
      const alarm = job.saveAlarm;
      assert.ok(
        alarm !== null && sameState(alarm, state),
        `saving ${stateText(state)} of ${jobId} failed, and nobody is told`,
      );
    } else if (message.$case === "checkpointCommitted") {
      const state = plain(message.value.state!);
      const alarm = job.saveAlarm;
      assert.ok(
        alarm === null || compareStates(state, alarm) < 0,
        `${stateText(state)} of ${jobId} is durable, and people are still told that saves fail`,
      );
    } else if (message.$case === "replicaFailed") {
      if (Number(message.value.generation) !== job.generation?.number) return;
      assert.ok(job.replicaAlarm !== null, `a copy of ${jobId} failed, and nobody is told`);
    }
  }

  /** A leader has promised to save. */
  promised(group: TrainGroup | null, step: number): void {
    if (group?.goesOn) this.#promised.push({ group, votes: group.votes, step, streams: streamsOf(group) });
  }

  voted(group: TrainGroup): void {
    const isPresent = (promised: Promised) => promised.group === group;
    for (const { votes, step, streams } of this.#promised.filter(isPresent)) {
      if (group.votes < votes + PROMISED_VOTES || streams !== streamsOf(group)) continue;
      const isWell = group.goesOn && group.members.every((member) => member!.agent.node.disk === null);
      assert.ok(
        !isWell || group.savedSteps.some((saved) => saved > step),
        `${group.job.jobId} was to be saved at step ${step}, and was not by step ${step + PROMISED_VOTES}`,
      );
    }
    this.#promised = this.#promised.filter(
      (promised) => !isPresent(promised) || group.votes < promised.votes + PROMISED_VOTES,
    );
  }
}

function streamsOf(group: TrainGroup): number {
  return group.members.reduce((sum, member) => sum + member!.agent.streamCount, 0);
}
