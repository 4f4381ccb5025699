import assert from "node:assert/strict";
import { durableKeys } from "../../../controller/core/contract.js";
import type { CoreState, JobState, NodeState } from "../../../controller/core/state.js";
import { isThere, type Truth } from "../sim_truth.js";

/** Which nodes get the ranks of a generation when it is planned. */
export class PlacementChecks {
  readonly #truth: Truth;

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  planned(core: CoreState, job: JobState): void {
    const { rankNodes, number } = job.generation!;
    for (const nodeId of new Set(rankNodes)) {
      const label = `and gets ranks of generation ${number}`;
      assert.equal(core.nodes.get(nodeId)!.leaving, null, `${nodeId} leaves ${label}`);
      const bad = core.quarantine.get(nodeId);
      assert.equal(bad, undefined, `${nodeId} is quarantined (${bad?.reason}) ${label}`);
    }
    const record = this.#truth.store.peek(durableKeys.generation(job.record.jobId));
    const prior = record?.kind === "generation" ? record.rankNodes : null;
    this.#avoidedLast(core, job, prior);
    // One that has formed before takes what is left of its members, whether that was durable or not.
    if (job.restarts === 0 && job.record.job.layout === "auto") this.#sparesStay(core, job);
  }

  /** A node to be avoided gets ranks of a layout that is set only where others have too few slots, or it has them already. */
  #avoidedLast(core: CoreState, job: JobState, prior: readonly string[] | null): void {
    const { rankNodes, layout, number } = job.generation!;
    const isAvoided = (nodeId: string) =>
      job.unconnected.has(nodeId) || (job.avoided.get(nodeId)?.untilMs ?? 0) > this.#truth.nowMs;
    const members = new Set(prior);
    const taken = [...new Set(rankNodes)].filter((nodeId) => isAvoided(nodeId) && !members.has(nodeId));
    if (taken.length === 0 || job.record.job.layout === "auto") return;
    const offered = [...core.nodes.values()].filter(({ nodeId }) => this.#isOffered(core, job, nodeId));
    const others = offered.filter(({ nodeId }) => !isAvoided(nodeId) || members.has(nodeId));
    assert.ok(
      slotsOf(others) < layout.worldSize,
      `${taken} is to be avoided and gets ranks of generation ${number}, though others have ${slotsOf(others)} slots for ${layout.worldSize}`,
    );
  }

  /** Of the good nodes that are free as many are left over as the job wants, unless it had none then. */
  #sparesStay(core: CoreState, job: JobState): void {
    const { spares } = job.record.job.recovery;
    const offered = [...core.nodes.values()].filter(({ nodeId }) => this.#isOffered(core, job, nodeId));
    const taken = new Set(job.generation!.rankNodes);
    const left = offered.length - taken.size;
    assert.ok(
      left >= Math.min(spares, offered.length - 1),
      `generation ${job.generation!.number} takes ${taken.size} of ${offered.length} nodes, and ${spares} are to be spares`,
    );
  }

  /** A member, or a node that was free for the job. */
  #isOffered(core: CoreState, job: JobState, nodeId: string): boolean {
    const known = core.nodes.get(nodeId)!;
    if (job.generation!.nodeRanks.has(nodeId)) return true;
    const node = this.#truth.nodes.find((each) => each.nodeId === nodeId)!;
    if (!isThere(core, node, this.#truth.nowMs)) return false;
    return isFree(core, job, known) || isTakenAfter(core, job, known);
  }
}

function isFree(core: CoreState, job: JobState, node: NodeState): boolean {
  const { jobId } = job.record;
  const isPassed = (core.health.get(node.nodeId)?.state ?? "passed") === "passed";
  const isOurs = node.heldJobId === jobId;
  return !node.releasing && node.jobId === null && (isOurs || (node.heldJobId === null && isPassed));
}

/** Another job was given it in the same moment, once this one was served. */
function isTakenAfter(core: CoreState, job: JobState, node: NodeState): boolean {
  const generation = core.jobs.get(node.jobId ?? "")?.generation;
  const isSame =
    generation?.stage === "persisting" && generation.changedLastMs === job.generation!.changedLastMs;
  return isSame && generation.number > job.generation!.number && node.heldJobId === null;
}

function slotsOf(nodes: readonly NodeState[]): number {
  return nodes.reduce((sum, { slots }) => sum + slots, 0);
}
