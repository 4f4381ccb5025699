import assert from "node:assert/strict";
import { sameState } from "../../../controller/core/state_name.js";
import { type Content, mixStep } from "../sim_content.js";
import type { SimRank } from "../sim_rank.js";
import type { Truth } from "../sim_truth.js";
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
    for (const member of group.members) {
      const { content, sealed: own } = member!.rank;
      assert.ok(sameState(content!.state, state), `generation ${group.generation} votes on different states`);
      assert.ok(
        own !== null && sameState(own, sealed!) && member!.agent.node.memory.findOwn(member!.rank.set, own),
        "a rank votes without its snapshot",
      );
    }
    assert.equal(state.step, step - 1);
  }

  applied(group: TrainGroup, rank: SimRank): void {
    const { state, skipped } = rank.content!;
    const label = `rank ${rank.rank} of generation ${group.generation}, step ${state.step}`;
    this.check(rank.content!, label);
    if (skipped.at(-1) !== state.step) return;
    const { badSteps, program } = group.job;
    const isWrong = this.#truth.nodes.some(({ guilt }) => guilt.has("wrong"));
    assert.ok(program === null && (badSteps.has(state.step) || isWrong), `${label}: left out for nothing`);
  }

  check(content: Content, label: string): void {
    const { state, skipped, digest } = content;
    assert.equal(digest, this.#digest(state.step, skipped), `${label}: packs are lost or consumed twice`);
  }

  /** Digest of a history that consumed steps 1..step, each exactly once. */
  #digest(step: number, skipped: readonly number[]): number {
    const key = skipped.join();
    let digests = this.#digests.get(key);
    if (digests === undefined) {
      digests = [1];
      this.#digests.set(key, digests);
    }
    while (digests.length <= step) {
      const next = digests.length;
      digests.push(mixStep(digests.at(-1)!, next, skipped.includes(next)));
    }
    return digests[step]!;
  }
}
