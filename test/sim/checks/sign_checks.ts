import assert from "node:assert/strict";
import type {
  DurableRecord,
  Event,
  IncidentRecord,
  QuarantineRecord,
} from "../../../controller/core/contract.js";
import type { CoreState, JobState } from "../../../controller/core/state.js";
import { median } from "../../../job/median.js";
import { SIGNALS } from "../../../job/signals/catalogue.js";
import type { SimController } from "../sim_controller.js";
import type { SimRank } from "../sim_rank.js";
import type { Truth } from "../sim_truth.js";
import { TrainGroup } from "../train_group.js";

/** On top of the rule's time: until a heartbeat says so. */
const WORDS_SLACK_MS = 4_000;
/** A controller that takes in nothing for so long stands still. */
const GAP_MS = 1_500;
/** Older words are forgotten. */
const WORDS_MS = 50_000;

interface Words {
  controller: SimController;
  jobId: string;
  group: TrainGroup;
  rank: SimRank;
  nodeId: string;
  heardMs: number;
  /** From then on it has been seen to stand. */
  sinceMs: number;
}

/** Signs of broken machines: who is convicted of them, until when, and what explains what. */
export class SignChecks {
  readonly #truth: Truth;
  /** Nodes that a person wants back, ever. */
  readonly #lifted = new Set<string>();
  /** Nodes that a person has had drained and has not given back, with how often that was asked. */
  readonly #drained = new Set<string>();
  readonly #asked = new Map<string, number>();
  #words: Words[] = [];
  readonly #steppedMs = new Map<SimController, number>();

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  // People ------------------------------------------------------------------------------------------------------------

  liftAsked(nodeId: string): void {
    this.#asked.set(nodeId, (this.#asked.get(nodeId) ?? 0) + 1);
    this.#lifted.add(nodeId);
    this.#drained.delete(nodeId);
  }

  /** `done`: a leader has answered that it is; unless it was asked for back meanwhile, it stays so. */
  drainAsked(nodeId: string): { done: () => void } {
    const asked = this.#asked.get(nodeId);
    return {
      done: () => {
        if (this.#asked.get(nodeId) === asked) this.#drained.add(nodeId);
      },
    };
  }

  planned({ generation }: JobState): void {
    for (const nodeId of new Set(generation!.rankNodes))
      assert.ok(
        !this.#drained.has(nodeId),
        `${nodeId} was drained and not given back, and gets ranks of generation ${generation!.number}`,
      );
  }

  // The store ---------------------------------------------------------------------------------------------------------

  written(record: DurableRecord | null, before: DurableRecord | null): void {
    if (before?.kind === "quarantine") this.#isEnded(before, record);
    if (record?.kind === "incident") this.#isExplained(record);
  }

  /** Nothing but another boot or a person ends what a sign has begun. */
  #isEnded(before: QuarantineRecord, record: DurableRecord | null): void {
    if (before.machine === undefined || before.untilMs !== null) return;
    const isKept = record?.kind === "quarantine" && record.untilMs === null;
    const { bootId } = this.#nodeOf(before.nodeId);
    assert.ok(
      isKept || this.#lifted.has(before.nodeId) || bootId !== before.machine,
      `${before.nodeId} was quarantined (${before.reason}) and may be used again, unmended`,
    );
  }

  #isExplained({ code, nodeId, what }: IncidentRecord): void {
    if (nodeId === null) return;
    const node = this.#nodeOf(nodeId);
    if (code === "HARDWARE_FAULT")
      assert.ok(node.hasToldOfMachine, `nothing said that the machine of ${nodeId} is broken: ${what}`);
    if (code === "NODE_OUT_OF_MEMORY")
      assert.ok(node.hasKilledForMemory, `nobody was killed for memory on ${nodeId}: ${what}`);
  }

  #nodeOf(id: string) {
    return this.#truth.nodes.find(({ nodeId }) => nodeId === id)!;
  }

  // What a leader makes of it -----------------------------------------------------------------------------------------

  stepped(controller: SimController, event: Event): void {
    const { core } = controller;
    const { nowMs } = this.#truth;
    const gapMs = nowMs - (this.#steppedMs.get(controller) ?? nowMs);
    this.#steppedMs.set(controller, nowMs);
    if (core?.leader?.ready === true && !core.raising) this.#told(controller, core, event);
    if (this.#words.length > 0) this.#standStill(controller, gapMs);
    if (core !== null) this.#blamesNobody(core);
  }

  #told(controller: SimController, core: CoreState, event: Event): void {
    if (event.kind !== "agentMessage" || event.message.$case !== "nodeSignals") return;
    const { nodeId, session } = event.from;
    const node = core.nodes.get(nodeId);
    if (node === undefined || node.session !== session) return;
    const { generation, signals } = event.message.value;
    for (const { kind, rank } of signals) {
      const { source, action, cause } = SIGNALS.get(kind)!;
      if (source !== "log" && action === "quarantine") {
        // What was said before a person gave it back may be repeated.
        const isConvicted = core.quarantine.has(nodeId) || this.#lifted.has(nodeId);
        assert.ok(isConvicted, `${nodeId} tells ${kind}, and is not quarantined`);
        for (const { group } of this.#nodeOf(nodeId).agent?.ranks.values() ?? [])
          if (group !== null) group.disturbed = true;
      }
      const group = this.#truth.groups.get(Number(generation));
      if (source !== "log" || cause !== "machine" || !(group instanceof TrainGroup)) continue;
      const member = group.members[rank!];
      if (member == null || member.agent.node.nodeId !== nodeId) continue;
      const { jobId } = group.job;
      const of = { controller, jobId, group, rank: member.rank, nodeId };
      this.#words.push({ ...of, heardMs: this.#truth.nowMs, sinceMs: this.#truth.nowMs });
    }
  }

  /** It has written words of a machine and stands still: it is ended in time, where its leader can see that it does. */
  #standStill(controller: SimController, gapMs: number): void {
    const { nowMs } = this.#truth;
    this.#words = this.#words.filter((words) => {
      if (words.controller !== controller) return true;
      const { rank, group, nodeId } = words;
      const { core } = controller;
      const job = core?.jobs.get(words.jobId);
      const isOver = rank.group !== group || group.over || !rank.alive || nowMs - words.heardMs > WORDS_MS;
      const isRunning = job?.generation?.number === group.generation && job.stage === "running";
      if (isOver || job === undefined || !isRunning) return false;
      const heardMs = core!.nodes.get(nodeId)?.heardMs ?? 0;
      const isSeen = nowMs - heardMs <= core!.config.limits.heartbeatMs + 500 && gapMs <= GAP_MS;
      if (!rank.stopped || !isSeen || job.generation!.stage !== "run") words.sinceMs = nowMs;
      const usualMs = job.stepTimesMs.length === 0 ? 0 : median(job.stepTimesMs);
      const limitMs = Math.max(4 * core!.config.limits.heartbeatMs, 2 * usualMs) + WORDS_SLACK_MS;
      assert.ok(
        nowMs - words.sinceMs <= limitMs,
        `rank ${rank.rank} of generation ${group.generation} wrote words of a machine and has stood still for ${nowMs - words.sinceMs} ms since`,
      );
      return true;
    });
  }

  /** A kill for memory is no fault of the node. */
  #blamesNobody(core: CoreState): void {
    for (const { incident, avoided } of core.jobs.values()) {
      if (incident?.code !== "NODE_OUT_OF_MEMORY" || incident.nodeId === null) continue;
      const reason = avoided.get(incident.nodeId)?.reason;
      assert.notEqual(reason, incident.what, `${incident.nodeId} is avoided for a kill for memory`);
    }
  }
}
