import assert from "node:assert/strict";
import { durableKeys, type Effect } from "../../../controller/core/contract.js";
import type { CoreState, JobState } from "../../../controller/core/state.js";
import { stateText } from "../../../controller/core/state_name.js";
import type { SimAgent } from "../sim_agent.js";
import type { CommandFrame, SimController } from "../sim_controller.js";
import type { SimGroup } from "../sim_group.js";
import { ProgramGroup } from "../sim_program.js";
import type { Truth } from "../sim_truth.js";
import { TrainGroup } from "../train_group.js";
import { HangChecks } from "./hang_checks.js";
import type { RecordChecks } from "./record_checks.js";

/** What controllers order and agents obey: in one term, of durable generations, and nothing that disturbs what goes on. */
export class CommandChecks {
  readonly #truth: Truth;
  readonly #records: RecordChecks;
  readonly #hangs: HangChecks;
  readonly #holders = new Map<number, Map<number, string>>();

  constructor(truth: Truth, records: RecordChecks) {
    this.#truth = truth;
    this.#records = records;
    this.#hangs = new HangChecks(truth);
  }

  /** Two never believe to lead at the same time, unless one of them, or its clock, stood still beyond its lease. */
  gained(controller: SimController): void {
    for (const other of this.#truth.controllers) {
      if (other === controller || other.core === null || other.isBehind) continue;
      assert.fail(`${controller.id} leads, and ${other.id} has not given up`);
    }
  }

  sent(controller: SimController, effect: Effect & { kind: "send" }): void {
    const leader = this.#records.leaderOf(effect.term);
    assert.equal(leader, controller.id, `${controller.id} commands in term ${effect.term} of ${leader}`);
    const { message } = effect;
    switch (message.$case) {
      case "prepare":
        this.#prepareSent(
          Number(message.value.generation),
          message.value.jobId,
          message.value.ranks,
          effect.nodeId,
        );
        return;
      case "connect": {
        const group = this.#group(message.value.generation);
        assert.equal(
          group.readyRanks.size,
          group.worldSize,
          `generation ${group.generation} connects before all are ready`,
        );
        return;
      }
      case "abort":
      case "killRank": {
        const group = this.#truth.groups.get(Number(message.value.generation));
        if (group instanceof TrainGroup) this.#hangs.judged(controller.core!, group);
        return;
      }
      case "run":
        this.#runSent(this.#group(message.value.generation));
        return;
      default:
        return;
    }
  }

  #prepareSent(generation: number, jobId: string, ranks: readonly number[], nodeId: string): void {
    const known = this.#records.generation(generation);
    assert.ok(known !== null, `generation ${generation} is used before it is durable`);
    assert.equal(known.jobId, jobId);
    const rankNodes = JSON.parse(known.rankNodes) as string[];
    const own = rankNodes.flatMap((owner, rank) => (owner === nodeId ? [rank] : []));
    assert.deepEqual(ranks, own, `ranks of generation ${generation} on ${nodeId}`);
    for (const group of this.#truth.groups.values()) {
      if (group.job.jobId === jobId && group.generation < generation)
        this.#mayDisturb(group, `generation ${generation}`);
    }
  }

  /**
   * Programs cannot prove each other alive: a member that its leader has not heard for so long is lost. So it is for one that
   * was deposed and that the member has left: agents that have not heard of its successor still obey its Abort.
   */
  lookForSilence(core: CoreState, { record, generation }: JobState): void {
    const group = this.#truth.groups.get(generation?.number ?? 0);
    if (!(group instanceof ProgramGroup) || group.disturbed || record.outcome !== null) return;
    const sinceMs = this.#truth.nowMs - 9 * core.config.limits.heartbeatMs;
    if (sinceMs < core.leader!.electedMs) return;
    group.disturbed = generation!.rankNodes.some(
      (nodeId) => (core.nodes.get(nodeId)?.heardMs ?? 0) <= sinceMs,
    );
  }

  #runSent(group: SimGroup): void {
    const label = `generation ${group.generation} runs`;
    assert.equal(group.restored.size, group.worldSize, `${label} before all have restored`);
    const states = new Set([...group.restored.values()].map(stateText));
    assert.equal(states.size, 1, `${label} from different states: ${[...states].join(", ")}`);
  }

  #group(generation: bigint): SimGroup {
    const group = this.#truth.groups.get(Number(generation));
    assert.ok(group !== undefined, `generation ${generation} is commanded and no rank has heard of it`);
    return group;
  }

  /** A generation that trains well is left alone, whatever happens to controllers, their network and their store. */
  #mayDisturb(group: SimGroup, by: string): void {
    assert.ok(!group.goesOn, `generation ${group.generation} goes on undisturbed and is ended by ${by}`);
  }

  obeyed(agent: SimAgent, frame: CommandFrame): void {
    const { message } = frame;
    if (message.$case === "prepare") {
      const generation = Number(message.value.generation);
      const holders = this.#holders.get(generation) ?? new Map<number, string>();
      this.#holders.set(generation, holders);
      for (const rank of message.value.ranks) {
        const holder = holders.get(rank) ?? agent.node.nodeId;
        assert.equal(holder, agent.node.nodeId, `rank ${rank} of generation ${generation} has two holders`);
        holders.set(rank, holder);
      }
    } else if (message.$case === "abort") {
      const group = this.#truth.groups.get(Number(message.value.generation));
      if (group !== undefined) this.#mayDisturb(group, "Abort");
    } else if (message.$case === "killRank") {
      const rank = agent.ranks.get(message.value.rank);
      const group = this.#truth.groups.get(rank?.generation ?? 0); // it may have left, since it was told to
      const isHeldUp = rank !== undefined && group instanceof ProgramGroup && group.isHeldUp(rank);
      const hangs =
        rank === undefined || rank.stopped || isHeldUp || this.#truth.nowMs - rank.wentOnMs < 10_000;
      assert.ok(
        hangs || this.#hangs.seemedHung(rank),
        `${agent.node.nodeId} is told to kill rank ${rank?.rank}, which works (${message.value.reason})`,
      );
    } else if (message.$case === "release") {
      this.#released(agent, message.value.jobId);
    }
  }

  /** A node may be released from a job that it holds something of and work for another one, which this does not concern. */
  #released(agent: SimAgent, jobId: string): void {
    const record = this.#truth.store.peek(durableKeys.job(jobId));
    assert.ok(record?.kind === "job", `job ${jobId} is released and was never submitted`);
    if (record.outcome !== null) return;
    for (const rank of agent.ranks.values()) {
      if (rank.group?.job.jobId === jobId) this.#mayDisturb(rank.group, "Release");
    }
  }
}
