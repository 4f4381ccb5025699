import assert from "node:assert/strict";
import type {
  DurableRecord,
  Effect,
  Event,
  FoundCheckpoint,
  StateName,
} from "../../controller/core/contract.js";
import { durableKeys } from "../../controller/core/contract.js";
import { plain } from "../support/agent_messages.js";
import { CommandChecks } from "./checks/command_checks.js";
import { ContentChecks } from "./checks/content_checks.js";
import { PlacementChecks } from "./checks/placement_checks.js";
import { PreviewChecks } from "./checks/preview_checks.js";
import { RecordChecks } from "./checks/record_checks.js";
import { RestoreChecks } from "./checks/restore_checks.js";
import { SaveChecks } from "./checks/save_checks.js";
import { SignChecks } from "./checks/sign_checks.js";
import { VerdictChecks } from "./checks/verdict_checks.js";
import type { SimAgent } from "./sim_agent.js";
import type { CommandFrame, SimController } from "./sim_controller.js";
import type { SimJob } from "./sim_group.js";
import type { SimRank } from "./sim_rank.js";
import type { Truth } from "./sim_truth.js";
import type { TrainGroup, TrainObserver } from "./train_group.js";

/** A machine is away for at most 90 s, and is waited for; what follows takes a minute when ranks hang as well. */
const YIELDED_MS_MAX = 180_000;

/**
 * What must hold after every event, whatever fails. Each check compares what the controllers do or the store holds with
 * the truth; a broken one throws and so ends the run. `checks/` has them by subject.
 */
export class Invariants implements TrainObserver {
  readonly #truth: Truth;
  readonly #records: RecordChecks;
  readonly #commands: CommandChecks;
  readonly #restores: RestoreChecks;
  readonly #placements: PlacementChecks;
  readonly #verdicts: VerdictChecks;
  readonly #contents: ContentChecks;
  readonly #previews: PreviewChecks;
  readonly #saves = new SaveChecks();
  readonly signs: SignChecks;
  readonly #planned = new Set<string>();
  /** Groups that ended to make way for a larger one of their job that has not stepped yet, and when, by job. */
  readonly #yielded = new Map<string, { group: TrainGroup; atMs: number }>();

  /** @param onRollBack ranks have voted to go back */
  constructor(
    truth: Truth,
    private readonly onRollBack: () => void,
  ) {
    this.#truth = truth;
    this.#records = new RecordChecks(truth);
    this.#commands = new CommandChecks(truth, this.#records);
    this.#restores = new RestoreChecks(truth, (number) => this.#records.generation(number)!.plan);
    this.#placements = new PlacementChecks(truth);
    this.#verdicts = new VerdictChecks(truth);
    this.#contents = new ContentChecks(truth);
    this.#previews = new PreviewChecks(truth);
    this.signs = new SignChecks(truth);
  }

  // The store ---------------------------------------------------------------------------------------------------------

  /** A record is about to be the one that stands there; null: it is deleted. */
  written(key: string, record: DurableRecord | null, before: DurableRecord | null): void {
    this.signs.written(record, before);
    if (record === null) return;
    this.#records.written(key, record, before);
    if (record.kind === "job")
      this.#restores.rollBacks.written(record, before?.kind === "job" ? before : null);
    if (record.kind === "quarantine") this.#verdicts.quarantined(record);
    if (record.kind === "checkpoints")
      this.#restores.registered(record, before?.kind === "checkpoints" ? before : null);
  }

  // What controllers do -----------------------------------------------------------------------------------------------

  gained(controller: SimController): void {
    this.#commands.gained(controller);
  }

  effect(controller: SimController, effect: Effect): void {
    if (effect.kind === "log") this.#verdicts.logged(effect.entry);
    if (effect.kind !== "send") return;
    this.#commands.sent(controller, effect);
    const { message } = effect;
    if (message.$case === "restore") this.#restores.sent(controller.core!, message.value, effect.nodeId);
  }

  /** After every event: has the core planned a new generation? */
  stepped(controller: SimController, event: Event): void {
    this.#yieldedGoOn();
    this.#saves.stepped(controller, event);
    this.signs.stepped(controller, event);
    const { core } = controller;
    if (core?.leader == null) return;
    for (const job of core.jobs.values()) this.#commands.lookForSilence(core, job);
    if (core.leader.term < this.#records.termLast) return; // nothing comes of what a deposed one plans
    for (const job of core.jobs.values()) {
      const key = `${core.leader.term}/${job.generation?.number ?? 0}`;
      if (job.generation?.stage !== "persisting" || this.#planned.has(key)) continue;
      this.#planned.add(key);
      this.#placements.planned(core, job);
      this.signs.planned(job);
      this.#restores.floors.planned(core, job, key);
    }
  }

  // What people are told ----------------------------------------------------------------------------------------------

  /** A leader has promised to save what trains. */
  savePromised(group: TrainGroup | null, step: number): void {
    this.#saves.promised(group, step);
  }

  /** What a generation was told to be committed. */
  listed(generation: number, found: readonly FoundCheckpoint[]): void {
    this.#restores.listed(generation, found);
  }

  // What agents do ----------------------------------------------------------------------------------------------------

  obeyed(agent: SimAgent, frame: CommandFrame): void {
    const { message, term } = frame;
    if (message.$case === "drawPreview" || message.$case === "releasePreview")
      this.#previews.ordered(message.$case, plain(message.value.state!), term);
    else this.#commands.obeyed(agent, frame);
  }

  committed(job: SimJob, state: StateName): void {
    const { content } = job.storage.find(state)!;
    const label = `checkpoint ${state.step} of ${job.jobId}`;
    this.#contents.check(content, label);
    this.#contents.hasSeen(job, content, label);
  }

  previewBegun(agent: SimAgent, state: StateName): void {
    this.#previews.begun(agent, state);
  }

  previewMissed(agent: SimAgent, state: StateName): void {
    this.#previews.missed(agent, state);
  }

  foundBad(key: string): void {
    this.#restores.foundBad(key);
  }

  /** Bits turned in the memory of a node that holds something of this job. */
  damaged(jobId: string): void {
    this.#restores.floors.damaged(jobId);
  }

  // What ranks do -----------------------------------------------------------------------------------------------------

  yielded(group: TrainGroup): void {
    this.#yielded.set(group.job.jobId, { group, atMs: this.#truth.nowMs });
  }

  /** It ended of its own accord: unless somebody forms the next one, nobody would ever notice that it does not step. */
  #yieldedGoOn(): void {
    for (const [jobId, { group, atMs }] of this.#yielded) {
      const record = this.#truth.store.peek(durableKeys.job(jobId));
      if (record?.kind === "job" && record.outcome !== null) this.#yielded.delete(jobId);
      else
        assert.ok(
          this.#truth.nowMs - atMs <= YIELDED_MS_MAX,
          `generation ${group.generation} of ${jobId} yielded ${(this.#truth.nowMs - atMs) / 1000} s ago, and no step followed`,
        );
    }
  }

  voted(group: TrainGroup, step: number, agreed: StateName): void {
    const yielded = this.#yielded.get(group.job.jobId);
    if (yielded !== undefined && group.generation > yielded.group.generation)
      this.#yielded.delete(group.job.jobId);
    this.#contents.voted(group, step);
    this.#restores.floors.voted(group, agreed);
    this.#verdicts.voted(group);
    this.#saves.voted(group);
  }

  replicated(group: TrainGroup, state: StateName): void {
    this.#restores.floors.replicated(group, state);
  }

  applied(group: TrainGroup, rank: SimRank): void {
    this.#contents.applied(group, rank);
  }

  rolledBack(group: TrainGroup, steps: { to: number; last: number }): void {
    this.#restores.rollBacks.voted(group, steps);
    this.onRollBack();
  }
}
