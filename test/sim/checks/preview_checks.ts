import assert from "node:assert/strict";
import type { StateName } from "../../../controller/core/contract.js";
import { stateText } from "../../../controller/core/state_name.js";
import type { SimAgent } from "../sim_agent.js";
import type { Truth } from "../sim_truth.js";
import { TrainGroup } from "../train_group.js";

/** What `SimPreviewer` takes at most to read the shards. */
const READ_MS_MAX = 3_000;

/** One preview at a time, and what it reads stays as long as it reads. */
export class PreviewChecks {
  readonly #truth: Truth;
  /** Newest term in which each state was ordered to be drawn, and its pins to be ended. */
  readonly #drawTerms = new Map<string, number>();
  readonly #releaseTerms = new Map<string, number>();

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  ordered(what: "drawPreview" | "releasePreview", state: StateName, term: number): void {
    const terms = what === "drawPreview" ? this.#drawTerms : this.#releaseTerms;
    terms.set(stateText(state), term);
  }

  /** One process draws for a generation, and it is of the generation that its node has a place in. */
  begun(agent: SimAgent, state: StateName): void {
    assert.equal(
      state.generation,
      agent.generation,
      `${agent.node.nodeId} draws what another generation computed`,
    );
    const termOf = (each: StateName) => this.#drawTerms.get(stateText(each))!;
    for (const { agent: other } of this.#truth.nodes) {
      const drawing = other?.drawing ?? null;
      if (drawing === null || drawing.generation !== state.generation) continue;
      // A new leader may not have heard of it; on one node the newer one then takes its place.
      const isKnown = other !== agent || termOf(drawing) === termOf(state);
      assert.ok(!isKnown, `${stateText(state)} is to be drawn while ${stateText(drawing)} is`);
    }
  }

  /**
   * While a generation is not disturbed its pins hold, until what is read is older than the two that were due last. Only a
   * leader that has left it out may have ended them, and a new one does not know. A rank without a free slot takes that of a preview
   * before one that a save reads.
   */
  missed(agent: SimAgent, state: StateName): void {
    const group = this.#truth.groups.get(agent.generation)!;
    assert.ok(group instanceof TrainGroup, "previews are of our own trainer");
    const isOver = group.disturbed || group.over || group.yieldedAt !== null;
    const isKept = group.members.every((member) => member!.agent.node.memory === member!.memory);
    const key = stateText(state);
    const wasLeftOut = (this.#releaseTerms.get(key) ?? Number.POSITIVE_INFINITY) < this.#drawTerms.get(key)!;
    const isShort = this.#truth.nowMs - group.shortMs <= READ_MS_MAX;
    const later = group.previewSteps.filter((step) => step > state.step).length;
    assert.ok(
      isOver || !isKept || later >= 2 || wasLeftOut || isShort,
      `a preview of ${stateText(state)} finds a part gone, and nothing has happened`,
    );
  }
}
