import assert from "node:assert/strict";
import type { DurableRecord, LogEntry } from "../../../controller/core/contract.js";
import type { SimNode } from "../sim_node.js";
import type { Truth } from "../sim_truth.js";
import type { TrainGroup } from "../train_group.js";

/** A verdict about pace looks back over so many rounds. */
const ROUNDS_COUNT = 8;
/** In which even a slow cluster does its steps. */
const LOOKS_BACK_MS = 240_000;
/** Slower than this over all of the rounds nobody may be without being named. */
const SLOW_SURELY = 2;

/** Who is named for being slow, or for computing wrong: nobody who was not, and everybody who was for long enough. */
export class VerdictChecks {
  readonly #truth: Truth;
  /** When each group voted first. */
  readonly #began = new Map<TrainGroup, number>();

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  logged(entry: LogEntry): void {
    if (entry.nodeId === null) return;
    const node = this.#truth.nodes.find(({ nodeId }) => nodeId === entry.nodeId)!;
    if (entry.type === "straggler" && entry.level === "warning") this.#isSlow(node, entry.text);
    if (entry.type === "numbers")
      assert.ok(node.guilt.has("wrong"), `${node.nodeId} never computed wrong: ${entry.text}`);
  }

  #isSlow(node: SimNode, text: string): void {
    const sinceMs = this.#truth.nowMs - node.slownessChangedMs;
    const wasSlow = node.slownessChangedMs > 0 && sinceMs < LOOKS_BACK_MS;
    assert.ok(node.slowness > 1 || wasSlow, `${node.nodeId} is not slow: ${text}`);
  }

  quarantined({ nodeId, reason, machine }: Extract<DurableRecord, { kind: "quarantine" }>): void {
    const node = this.#truth.nodes.find((each) => each.nodeId === nodeId)!;
    assert.ok(!reason.startsWith("its output"), `${nodeId} is quarantined for words: ${reason}`);
    const others = [...node.guilt].filter((guilt) => guilt !== "sign");
    const isGuilty = machine === undefined ? node.broken || others.length > 0 : node.guilt.has("sign");
    // Whom others cannot reach fails in collectives with them, for as long as that lasts.
    const isCut = this.#truth.nodes.some((other) => other !== node && this.#truth.isCut(node, other));
    if (isCut && reason.startsWith("self-check: collective failed")) return;
    assert.ok(isGuilty, `nothing is wrong with ${nodeId}, quarantined for: ${reason}`);
  }

  /** Rounds that all lie behind the change, in which most others were not slow: then it has been named. */
  voted(group: TrainGroup): void {
    const { nowMs } = this.#truth;
    const beganMs = this.#began.get(group) ?? nowMs;
    this.#began.set(group, beganMs);
    const nodes = [...new Set(group.members.map((member) => member!.agent.node))];
    const slow = nodes.filter((node) => node.slowness >= SLOW_SURELY && node.slownessChangedMs < beganMs);
    const ranksOf = (of: readonly SimNode[]) =>
      group.members.filter((m) => of.includes(m!.agent.node)).length;
    const isCalm = nodes.every(
      (node) => slow.includes(node) || (node.slowness === 1 && node.slownessChangedMs < beganMs),
    );
    if (slow.length === 0 || !isCalm || 3 * ranksOf(slow) > group.worldSize) return;
    for (const { core } of this.#truth.controllers) {
      const generation = core?.jobs.get(group.job.jobId)?.generation;
      if (generation == null || generation.number !== group.generation) continue;
      if (generation.pace.rounds.length < ROUNDS_COUNT) continue;
      for (const { nodeId } of slow)
        assert.ok(
          [...generation.pace.told.values()].some((subject) => subject.nodeId === nodeId),
          `${nodeId} was ${SLOW_SURELY} times as slow as the others for ${ROUNDS_COUNT} rounds, and is not named`,
        );
    }
  }
}
