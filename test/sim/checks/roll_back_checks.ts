import assert from "node:assert/strict";
import {
  durableKeys,
  type JobRecord,
  type RollBackRecord,
  type StateName,
} from "../../../controller/core/contract.js";
import { stateText } from "../../../controller/core/state_name.js";
import type { Restore } from "../../../gen/goku/v1/agent.pb.js";
import { isLeftOut } from "../../../job/left_out.js";
import { SPIKE_WINDOW } from "../../../job/spikes.js";
import { rollBacksOf, type Truth } from "../sim_truth.js";
import type { TrainGroup } from "../train_group.js";

/** Roll-backs: only what ranks have voted, as far as they have voted, and for good. */
export class RollBackChecks {
  readonly #truth: Truth;
  /** What each generation has voted. */
  readonly #voted = new Map<number, { to: number; last: number }>();

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  /** So many steps that changed weights are undone, the bad one among them; the first ones of a run may be fewer. */
  voted(group: TrainGroup, { to, last }: { to: number; last: number }): void {
    const { roll_back_steps } = group.job.spec!.recovery;
    const { leftOut } = group.members[0]!.rank;
    const steps = Array.from({ length: last - to - 1 }, (_, i) => to + 1 + i);
    const undone = 1 + steps.filter((step) => !isLeftOut(leftOut, step)).length;
    const label = `generation ${group.generation} goes back from step ${last} to ${to}`;
    assert.ok(
      undone === roll_back_steps || (to === 0 && undone < roll_back_steps),
      `${label}, over ${undone} steps, not ${roll_back_steps}`,
    );
    assert.ok(
      group.job.badSteps.has(last) || this.#isAnyWrong(),
      `${label}, and nothing is wrong with that step`,
    );
    this.#voted.set(group.generation, { to, last });
  }

  #isAnyWrong(): boolean {
    return this.#truth.nodes.some(({ guilt }) => guilt.has("wrong"));
  }

  written(record: JobRecord, before: JobRecord | null): void {
    const known = before?.rollBacks ?? [];
    const { jobId, rollBacks } = record;
    assert.deepEqual(rollBacks.slice(0, known.length), known, `${jobId} forgets what is undone`);
    for (const added of rollBacks.slice(known.length)) {
      this.#isAsVoted(record, known, added);
      this.#areFew(record, added);
    }
  }

  #isAsVoted({ jobId }: JobRecord, known: readonly RollBackRecord[], added: RollBackRecord): void {
    const { generation, first, last } = added;
    const label = `${jobId}: steps ${first} to ${last} of generation ${generation} are undone`;
    const voted = this.#voted.get(generation);
    assert.ok(voted !== undefined && voted.last === last, `${label}, which it has not voted`);
    assert.ok(first <= last, `${label}: none`);
    assert.ok(
      known.every((each) => each.generation < generation),
      `${label} a second time`,
    );
    if (first === voted.to + 1) return;
    assert.ok(first > voted.to + 1, `${label}, more than from step ${voted.to + 1} on, as voted`);
    const earlier = this.#usable(jobId, known).filter(({ step }) => step <= voted.to);
    assert.deepEqual(earlier.map(stateText), [], `${label}, and there is a way back to step ${voted.to}`);
  }

  /** What the register has that is there. */
  #usable(jobId: string, known: readonly RollBackRecord[]): StateName[] {
    const record = this.#truth.store.peek(durableKeys.checkpoints(jobId));
    const { storage } = this.#truth.jobs.get(jobId)!;
    const entries = record?.kind === "checkpoints" ? record.entries : [];
    return entries
      .filter(({ unusable, state }) => unusable === null && storage.find(state)?.corrupt === false)
      .map(({ state }) => state)
      .filter((state) => !isUndone(known, state));
  }

  /** One after another, each within the window of the one before. */
  #areFew({ jobId, rollBacks }: JobRecord, added: RollBackRecord): void {
    const job = this.#truth.jobs.get(jobId)!;
    const lasts = [...new Set(rollBacks.map(({ last }) => last))].sort((a, b) => b - a);
    const row = lasts.slice(lasts.indexOf(added.last));
    const end = row.findIndex((last, i) => i > 0 && row[i - 1]! - last > SPIKE_WINDOW);
    const count = end < 0 ? row.length : end;
    const most = job.spec!.recovery.max_roll_backs;
    assert.ok(count <= most, `${jobId} goes back for the ${count}th time in a row, ${most} are allowed`);
  }

  /** Nobody goes on from what is undone, and all ranks are told what to leave out. */
  restores(group: TrainGroup, { rollBacks }: Restore, state: StateName): void {
    const known = rollBacksOf(this.#truth, group.job.jobId);
    const label = `generation ${group.generation} restores ${stateText(state)}`;
    assert.ok(!isUndone(known, state), `${label}, which is undone`);
    assert.deepEqual(
      rollBacks.map(({ first, last }) => `${first}-${last}`),
      known.map(({ first, last }) => `${first}-${last}`),
      `${label} and is not told what to leave out`,
    );
  }
}

export function isUndone(rollBacks: readonly RollBackRecord[], { generation, step }: StateName): boolean {
  return rollBacks.some((each) => generation <= each.generation && step >= each.first);
}
