import { eventJson, jobJson } from "../controller/api/json.js";
import type { JobStatus } from "../gen/goku/v1/controller.pb.js";
import { ERRORS, type ErrorCode, GokuError } from "../job/errors.js";
import type { ControllerClient } from "./client.js";
import { followJob } from "./follow_job.js";
import { eventLine, phaseName, progressLine } from "./format_job.js";
import { heatMap } from "./heat_map.js";
import { number, type Output } from "./output.js";

/** Phase, pace and ETA are asked for at most this often; steps and losses come with the events. */
const ASK_MS = 1_000;

/**
 * Follows a job until it ends and returns how it ended. On a terminal the last line is a living progress line;
 * elsewhere every event and every tenth of the way is a line; with --json each event is one JSON line, and the job the last.
 * Throws the job's own error when it failed, so that the exit code says why.
 */
export async function watchJob(
  client: ControllerClient,
  output: Output,
  name: string,
  nowMs: () => number = () => performance.now(),
): Promise<JobStatus> {
  const first = await client.call("getJob", { name });
  if (!first.job)
    throw new GokuError("NOT_FOUND", `Cannot watch job "${name}": the controller does not know it`);
  const screen = new ProgressLine(output);
  let job = first.job;
  let askedMs = nowMs();
  const told = (status: JobStatus) => {
    job = status;
    askedMs = nowMs();
    screen.draw(job);
  };
  const events = followJob(client, job.name, {
    onStatus: told,
    onAway: () => screen.print("The controller does not answer; training goes on, trying again"),
  });
  for await (const event of events) {
    if (output.json) process.stdout.write(`${JSON.stringify(eventJson(event))}\n`);
    else if (!event.step) screen.print(eventLine(event));
    if (event.step && event.step.step > job.step) {
      const { step, loss, replicatedStep } = event.step;
      job = { ...job, step, loss, replicatedStep: replicatedStep > 0n ? replicatedStep : job.replicatedStep };
      screen.draw(job);
    }
    if (nowMs() - askedMs < ASK_MS) continue;
    askedMs = nowMs();
    const answer = await client.call("getJob", { name: job.name }).catch(() => null); // it may be away
    if (answer?.job) told(answer.job);
  }
  screen.end();
  if (output.json) process.stdout.write(`${JSON.stringify(jobJson(job))}\n`);
  requireNoError(job);
  return job;
}

/** Throws the job's own error when it failed. */
export function requireNoError(job: JobStatus | undefined): void {
  if (!job?.error) return;
  const code = Object.hasOwn(ERRORS, job.error.code) ? (job.error.code as ErrorCode) : "INTERNAL";
  throw new GokuError(code, job.error.message);
}

/** Changes with every tenth of the way; where its length is not known, when the steps have doubled. */
function markOf({ step, stepsTotal }: JobStatus): number {
  if (stepsTotal === 0n) return Math.floor(Math.log2(1 + Number(step)));
  return Math.floor((10 * Number(step)) / Number(stepsTotal));
}

/** Lines of the heat map above the progress line. */
const MAP_ROWS = 8;

/** The progress line at the bottom of a terminal, with the heat map above it; a line per tenth of the way where there is none. */
class ProgressLine {
  readonly #live: boolean;
  readonly #silent: boolean;
  #mark = -1;
  /** Lines that stand on the terminal and are to be drawn anew. */
  #shown = 0;

  constructor(output: Output) {
    this.#live = process.stdout.isTTY === true && !output.json;
    this.#silent = output.json;
  }

  draw(job: JobStatus): void {
    if (this.#silent) return;
    const replicated = job.replicatedStep === undefined ? "" : `  replicated ${job.replicatedStep}`;
    const loss = job.loss === undefined ? "" : `  loss ${number(job.loss)}`;
    const text = `${phaseName(job.phase)}  ${progressLine(job)}${loss}${replicated}`;
    if (this.#live) {
      const columns = (process.stdout.columns ?? 120) - 1;
      const lines = [...heatMap(job, { columns, rows: MAP_ROWS }), text.slice(0, columns)];
      process.stdout.write(`${this.#erasure()}${lines.join("\n")}`);
      this.#shown = lines.length;
      return;
    }
    const mark = markOf(job);
    if (mark !== this.#mark) process.stdout.write(`${text}\n`);
    this.#mark = mark;
  }

  print(line: string): void {
    if (this.#silent) return;
    process.stdout.write(`${this.#erasure()}${line}\n`);
    this.#shown = 0;
  }

  end(): void {
    if (this.#shown > 0) process.stdout.write("\n");
  }

  /** Goes to the first of the lines shown and clears all of them. */
  #erasure(): string {
    if (this.#shown === 0) return "";
    return `${this.#shown > 1 ? `\x1b[${this.#shown - 1}A` : ""}\r\x1b[J`;
  }
}
