import assert from "node:assert/strict";
import { sameState } from "../../../controller/core/state_name.js";
import { isLeftOut, type LeftOut } from "../../../job/left_out.js";
import { type Content, mixStep, stepsOf } from "../sim_content.js";
import type { SimRank } from "../sim_rank.js";
import { rollBacksOf, type Truth } from "../sim_truth.js";
import type { TrainGroup } from "../train_group.js";

/** What states hold: each step's packs exactly once, and no step left out that need not be. */
export class ContentChecks {
  readonly #truth: Truth;
  /** By the steps that were left out: digests of such a history, by step. */
  readonly #digests = new Map<string, number[]>();

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  voted(group: TrainGroup, step: number): void {
    const { state } = group.members[0]!.rank.content!;
    const { sealed } = group.members[0]!.rank;
    const { leftOut } = group.members[0]!.rank;
    for (const member of group.members) {
      const { content, sealed: own } = member!.rank;
      const isAlike =
        member!.rank.leftOut === leftOut || JSON.stringify(member!.rank.leftOut) === JSON.stringify(leftOut);
      assert.ok(isAlike, `generation ${group.generation}: ranks leave out different steps`);
      assert.ok(sameState(content!.state, state), `generation ${group.generation} votes on different states`);
      assert.ok(
        own !== null && sameState(own, sealed!) && member!.agent.node.memory.findOwn(member!.rank.set, own),
        "a rank votes without its snapshot",
      );
    }
    assert.equal(state.step, step - 1);
  }

  applied(group: TrainGroup, rank: SimRank): void {
    const { state, leftOut } = rank.content!;
    const label = `rank ${rank.rank} of generation ${group.generation}, step ${state.step}`;
    this.check(rank.content!, label);
    const rollBacks = rollBacksOf(this.#truth, group.job.jobId);
    for (const { generation, first, last } of rollBacks) {
      if (state.step < first || state.step > last) continue;
      assert.ok(
        group.generation > generation && isLeftOut(leftOut, state.step),
        `${label}: counts again, though steps ${first} to ${last} of generation ${generation} are undone`,
      );
    }
    if (!isLeftOut(leftOut, state.step)) return;
    const { badSteps, program } = group.job;
    const isWrong = this.#truth.nodes.some(({ guilt }) => guilt.has("wrong"));
    const isUndone = rollBacks.some(({ first, last }) => first <= state.step && state.step <= last);
    assert.ok(
      program === null && (badSteps.has(state.step) || isWrong || isUndone),
      `${label}: left out for nothing`,
    );
  }

  check(content: Content, label: string): void {
    const { state, leftOut, digest } = content;
    assert.equal(digest, this.#digest(state.step, leftOut), `${label}: packs are lost or consumed twice`);
  }

  /** Digest of a history that consumed steps 1..step, each exactly once. */
  #digest(step: number, leftOut: readonly LeftOut[]): number {
    const steps = leftOut.length === 0 ? [] : stepsOf(leftOut).filter((each) => each <= step);
    const key = steps.join();
    let digests = this.#digests.get(key);
    if (digests === undefined) {
      digests = [1];
      this.#digests.set(key, digests);
    }
    while (digests.length <= step) {
      const next = digests.length;
      digests.push(mixStep(digests.at(-1)!, next, steps.includes(next)));
    }
    return digests[step]!;
  }
}
