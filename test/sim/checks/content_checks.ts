import assert from "node:assert/strict";
import { sameState } from "../../../controller/core/state_name.js";
import { isLeftOut, type LeftOut } from "../../../job/left_out.js";
import { GRADIENT_FACTOR, LOSS_FACTOR, nothingSeen, watchSpikes } from "../../../job/spikes.js";
import { type Content, mixStep, ordinaryNumbers, stepsOf } from "../sim_content.js";
import type { SimJob } from "../sim_group.js";
import type { SimRank } from "../sim_rank.js";
import { rollBacksOf, type Truth } from "../sim_truth.js";
import type { TrainGroup } from "../train_group.js";
import { ordinaryVote } from "../train_numbers.js";

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

  /**
   * What is committed has seen the losses of the steps that count, as a run that voted the others down. Where a device was wrong,
   * what it made of a spike may have been taken.
   */
  hasSeen({ badSteps, spec }: SimJob, content: Content, label: string): void {
    const isWrong = this.#truth.nodes.some(({ guilt }) => guilt.has("wrong"));
    if (badSteps.size === 0 || isWrong || spec === null) return;
    const { leftOut, state, numbers } = content;
    const seen = nothingSeen();
    for (let step = 1; step <= state.step; step++) {
      if (isLeftOut(leftOut, step)) continue;
      const what = badSteps.get(step);
      assert.notEqual(what, "notFinite", `${label}: counts step ${step}, which is not finite`);
      const ordinary = ordinaryNumbers(this.#digest(step - 1, leftOut), step);
      const packs = spec.train.packs_per_step;
      const vote = ordinaryVote({
        packs,
        ordinary,
        bad: what === undefined ? null : { pack: step % packs, what },
      });
      watchSpikes(seen.loss, vote.loss, LOSS_FACTOR);
      watchSpikes(seen.gradient, vote.gradNorm, GRADIENT_FACTOR);
    }
    assert.deepEqual(
      [numbers.loss.values, numbers.gradient.values],
      [seen.loss.values, seen.gradient.values],
      `${label}: has seen other numbers than a run that voted the steps down that it goes without`,
    );
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
