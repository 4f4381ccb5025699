import assert from "node:assert/strict";
import type { DurableRecord } from "../../../controller/core/contract.js";
import { ProgramGroup } from "../sim_program.js";
import type { Truth } from "../sim_truth.js";

/** What becomes durable: terms and generations are given out once and in order, and jobs end as they should. */
export class RecordChecks {
  readonly #truth: Truth;
  readonly #leaderOfTerm = new Map<number, string>();
  termLast = 0;
  #generationLast = 0;
  readonly #generations = new Map<number, { jobId: string; rankNodes: string; plan: string }>();

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  leaderOf(term: number): string | undefined {
    return this.#leaderOfTerm.get(term);
  }

  /** Null: no generation of that number is durable. */
  generation(number: number): { jobId: string; rankNodes: string; plan: string } | null {
    return this.#generations.get(number) ?? null;
  }

  written(key: string, record: DurableRecord, before: DurableRecord | null): void {
    if (record.kind === "term") {
      assert.ok(record.term > this.termLast, `term ${record.term} written after ${this.termLast}`);
      this.termLast = record.term;
      this.#leaderOfTerm.set(record.term, record.controllerId);
    }
    if (record.kind === "generation") this.#generationWritten(record);
    if (record.kind === "job" && record.outcome !== null) this.#outcomeWritten(key, record, before);
  }

  #generationWritten(record: Extract<DurableRecord, { kind: "generation" }>): void {
    const { generation, jobId } = record;
    const rankNodes = JSON.stringify(record.rankNodes);
    const known = this.#generations.get(generation);
    if (known !== undefined) {
      const { plan } = known;
      assert.deepEqual({ jobId, rankNodes, plan }, known, `generation ${generation} was given out twice`);
      return;
    }
    assert.ok(generation > this.#generationLast, `generation ${generation} after ${this.#generationLast}`);
    this.#generationLast = generation;
    this.#generations.set(generation, { jobId, rankNodes, plan: `${record.term}/${generation}` });
  }

  #outcomeWritten(
    key: string,
    record: Extract<DurableRecord, { kind: "job" }>,
    before: DurableRecord | null,
  ): void {
    const outcome = record.outcome!;
    const job = this.#truth.jobs.get(record.jobId)!;
    assert.ok(before !== null, `${key}: ended before it was submitted`);
    if (job.program !== null) {
      this.#programsEnded(record.jobId, record);
      return;
    }
    assert.notEqual(outcome.code, "STORAGE_NOT_SHARED", `job ${record.jobId}: its storage is shared by all`);
    const saved = job.storage.hasSaved(outcome.step);
    if (outcome.phase === "COMPLETED") {
      assert.ok(
        outcome.step === job.steps && saved,
        `job ${record.jobId} COMPLETED at step ${outcome.step} without a checkpoint`,
      );
    }
    assert.ok(
      outcome.phase !== "STOPPED" || record.stop !== null,
      `job ${record.jobId} STOPPED and nobody asked for it`,
    );
    if (outcome.phase === "STOPPED" && outcome.step > 0) {
      assert.ok(saved, `job ${record.jobId} STOPPED at step ${outcome.step} without a checkpoint`);
    }
  }

  /** A job that brings its own program is done when all of one generation have ended well. */
  #programsEnded(jobId: string, { outcome, stop }: Extract<DurableRecord, { kind: "job" }>): void {
    const phase = outcome!.phase;
    const groups = [...this.#truth.groups.values()].filter(({ job }) => job.jobId === jobId);
    const isDone = groups.some(
      (group) => group instanceof ProgramGroup && group.ended.size === group.worldSize,
    );
    assert.ok(
      phase !== "COMPLETED" || isDone,
      `job ${jobId} COMPLETED, and not all of its programs have ended`,
    );
    assert.ok(phase !== "STOPPED" || stop !== null, `job ${jobId} STOPPED and nobody asked for it`);
  }
}
