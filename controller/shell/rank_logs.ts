import type { LogLine } from "../../gen/goku/v1/controller.pb.js";

const LINES_PER_JOB_MAX = 5_000;
const JOBS_MAX = 50;

/** The newest lines that ranks wrote, job by job, in bounded memory. Whole logs stay on the nodes. */
export class RankLogs {
  readonly #jobs = new Map<string, LogLine[]>();

  add(jobId: string, rank: number, lines: readonly string[], timeMs: number): void {
    const kept = this.#jobs.get(jobId) ?? [];
    for (const text of lines) kept.push({ time: new Date(timeMs), rank, text });
    if (kept.length > LINES_PER_JOB_MAX) kept.splice(0, kept.length - LINES_PER_JOB_MAX);
    this.#jobs.delete(jobId);
    this.#jobs.set(jobId, kept);
    const oldest = this.#jobs.keys().next().value;
    if (this.#jobs.size > JOBS_MAX && oldest !== undefined) this.#jobs.delete(oldest);
  }

  last(jobId: string, rank: number | null, limit: number): LogLine[] {
    const lines = this.#jobs.get(jobId) ?? [];
    return (rank === null ? lines : lines.filter((line) => line.rank === rank)).slice(-limit);
  }
}
