import { SETTLING_STEPS } from "../../../controller/core/stall_limit.js";
import type { CoreState, JobState } from "../../../controller/core/state.js";
import type { SimRank } from "../sim_rank.js";
import type { Truth } from "../sim_truth.js";
import type { TrainGroup } from "../train_group.js";

/** Of every simulated job: the default of `recovery.stall_seconds`. */
const FLOOR_MS = 1_500;

/**
 * Who works and may yet be taken for hung: ranks that need longer than their job has led to expect. What such a rank shows is
 * what a blocked one shows, nothing; only time tells them apart, and a hang is to be named within three usual steps and two
 * seconds. So a generation that goes on is left alone unless every rank that its leader can see has stood still for as long as
 * the longest of these, by what that leader was told of the job:
 *
 * - `stall_seconds`;
 * - four usual pauses and two usual steps with `stall_seconds`, whichever is less; where part of the ranks cannot be seen, the latter;
 * - 1.25 times any pause but the longest;
 * - twice the pause of two of the last three steps: of a machine that becomes slower the first two steps may be too long.
 *
 * While a generation settles, or fewer than three pauses are known, no pause of a rank that works is too long.
 */
export class HangChecks {
  readonly #truth: Truth;
  readonly #seemedHung = new WeakSet<SimRank>();

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  /** A leader ends the generation, or a rank of it, maybe for a hang: is what it cannot know excused? */
  judged(core: CoreState, group: TrainGroup): void {
    const job = core.jobs.get(group.job.jobId);
    if (job === undefined) return;
    this.#judgedByWords(core, group, job);
    if (!group.goesOn || !job.faults.some(({ source }) => source === "stall")) return;
    const { nowMs } = this.#truth;
    // A node that has answered nothing since is silent.
    const sinceMs = nowMs - 3 * core.config.limits.heartbeatMs;
    const seen = group.members.flatMap((member) => {
      const node = core.nodes.get(member!.agent.node.nodeId);
      const isSeen = node?.session != null && node.heardMs >= sinceMs && node.steadyMs <= nowMs;
      return isSeen ? [member!.rank] : [];
    });
    const limitMs = promisedMs(job, seen.length < group.worldSize);
    if (seen.some((rank) => rank.stoodMs(sinceMs) < limitMs)) return;
    group.disturbed = true;
    for (const rank of seen) this.#seemedHung.add(rank);
  }

  /** A rank that wrote words of a machine may stand still for two usual steps, and as long as its page may be old. */
  #judgedByWords(core: CoreState, group: TrainGroup, job: JobState): void {
    const ageMs = 4 * core.config.limits.heartbeatMs;
    const usualMs = job.stepTimesMs.length === 0 ? 0 : middle(job.stepTimesMs);
    const limitMs = Math.max(ageMs, 2 * usualMs);
    for (const { source, remedy, rank } of job.faults) {
      const member = source === "signal" && remedy === "kill" ? group.members[rank!] : null;
      if (member == null || member.rank.stoodMs(this.#truth.nowMs - ageMs) < limitMs) continue;
      group.disturbed = true;
      this.#seemedHung.add(member.rank);
    }
  }

  seemedHung(rank: SimRank): boolean {
    return this.#seemedHung.has(rank);
  }
}

function promisedMs({ pauses, stepTimesMs, generation }: JobState, inPart: boolean): number {
  const told = pauses.ms.slice(0, -1); // the last is what is taken for a hang now
  if (generation!.stepsTold < SETTLING_STEPS || told.length < 3) return Number.POSITIVE_INFINITY;
  const stepsMs = FLOOR_MS + 2 * middle(stepTimesMs);
  const usualMs = inPart ? stepsMs : Math.min(4 * middle(told), stepsMs);
  const returningMs = 1.25 * sorted(told).at(-2)!;
  return Math.max(FLOOR_MS, usualMs, returningMs, 2 * middle(told.slice(-3)));
}

function middle(values: readonly number[]): number {
  return sorted(values)[Math.floor((values.length - 1) / 2)]!;
}

function sorted(values: readonly number[]): number[] {
  return [...values].sort((a, b) => a - b);
}
