import { randomUUID } from "node:crypto";
import { realpath } from "node:fs/promises";
import path from "node:path";
import { listCheckpoints, openCheckpoint, splitCheckpointUri } from "../../checkpoint/load.js";
import type {
  CheckpointRecord,
  Incident,
  JobStatus,
  LogLine,
  NodeStatus,
  StepPoint,
  WatchEventsResponse,
} from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { resolveJob } from "../../job/load_job.js";
import type { ControllerApi } from "../api/controller_api.js";
import type { CheckpointSource } from "../core/contract.js";
import type { CoreState } from "../core/state.js";
import { type JobView, jobView, jobViews, nodeViews } from "../core/views.js";
import type { ControllerShell } from "./controller_shell.js";
import { checkpointMessages, incidentMessage, jobStatus, nodeStatus } from "./views.js";

/** Answers questions from the core's state and what the shell keeps; passes requests to the core. */
export class ShellApi implements ControllerApi {
  readonly #shell: ControllerShell;

  constructor(shell: ControllerShell) {
    this.#shell = shell;
  }

  async submitJob(job: unknown, resumeUri: string | null): Promise<JobStatus> {
    const resolved = resolveJob(job);
    const source = resumeUri === null ? null : await checkpointSource(resumeUri);
    const entries = await listCheckpoints(resolved.checkpoint.uri);
    const generations = entries.map((entry) => Number(entry.state.generation));
    const found = {
      count: entries.length,
      generationHighest: Math.max(0, ...generations),
      own: resumeUri !== null && (await isSameRoot(resumeUri, resolved.checkpoint.uri)),
    };
    const reply = await this.#shell.request((requestId) => ({
      kind: "jobSubmitted",
      requestId,
      jobId: randomUUID(),
      job: resolved,
      source,
      found,
    }));
    return this.#status(jobView(this.#shell.state, reply.jobId)!);
  }

  listJobs(): JobStatus[] {
    return jobViews(this.#leading()).map((view) => this.#status(view));
  }

  getJob(name: string): { status: JobStatus; spec: Job; history: StepPoint[] } {
    const job = this.#find(name);
    const points = this.#shell.histories.get(job.record.jobId)?.points() ?? [];
    return {
      status: this.#status(job),
      spec: job.record.job,
      history: points.map((p) => ({ step: BigInt(p.step), loss: p.loss })),
    };
  }

  async stopJob(name: string): Promise<JobStatus> {
    const { jobId } = this.#find(name).record;
    await this.#shell.request((requestId) => ({ kind: "stopRequested", requestId, jobId }));
    return this.#status(jobView(this.#shell.state, jobId)!);
  }

  async saveJob(name: string): Promise<void> {
    const { jobId } = this.#find(name).record;
    await this.#shell.request((requestId) => ({ kind: "saveRequested", requestId, jobId }));
  }

  listNodes(): NodeStatus[] {
    return nodeViews(this.#leading(), this.#shell.nowMs()).map((view) =>
      nodeStatus(view, this.#shell.jobName(view.jobId)),
    );
  }

  async releaseNode(nodeId: string): Promise<void> {
    await this.#shell.request((requestId) => ({ kind: "quarantineLifted", requestId, nodeId }));
  }

  listCheckpoints(name: string): CheckpointRecord[] {
    return checkpointMessages(this.#find(name));
  }

  listIncidents(name: string): Incident[] {
    const job = this.#find(name);
    return job.incidents.map((incident) => incidentMessage(incident, job.record.job.name));
  }

  logs(name: string, rank: number | null, limit: number): LogLine[] {
    return this.#shell.logs.last(this.#find(name).record.jobId, rank, limit);
  }

  pastEvents(job: string, afterId: bigint): WatchEventsResponse[] {
    return this.#shell.events.past(job, afterId);
  }

  onEvent(callback: (event: WatchEventsResponse) => void): () => void {
    return this.#shell.events.listen(callback);
  }

  isOver(name: string): boolean {
    return this.#find(name).over;
  }

  isReady(): boolean {
    return this.#shell.state.leader?.ready ?? false;
  }

  /** Only a leader that has read its records knows what there is; others would say that there is nothing. */
  #leading(): CoreState {
    if (!this.isReady())
      throw new GokuError("NOT_LEADER", "Cannot answer: this controller does not lead yet");
    return this.#shell.state;
  }

  /** The newest job of that name; the newest of all when the name is empty. */
  #find(name: string): JobView {
    const jobs = jobViews(this.#leading());
    const found = jobs.filter((job) => name === "" || job.record.job.name === name).at(-1);
    if (found) return found;
    const known = [...new Set(jobs.map((job) => job.record.job.name))].slice(-5);
    const have = known.length === 0 ? "no job has been submitted" : `known are ${known.join(", ")}`;
    throw new GokuError(
      "NOT_FOUND",
      name === "" ? `Cannot find a job: ${have}` : `Cannot find job "${name}": ${have}`,
    );
  }

  #status(view: JobView): JobStatus {
    return jobStatus(view, this.#shell.histories.get(view.record.jobId));
  }
}

/** Whether a checkpoint to resume from stands in a run's own folder, however the two are spelled. */
async function isSameRoot(resumeUri: string, runUri: string): Promise<boolean> {
  const [from, to] = await Promise.all([splitCheckpointUri(resumeUri).root, runUri].map(rootName));
  return from === to;
}

/** A folder's one name; other addresses are their own. */
async function rootName(uri: string): Promise<string> {
  if (/^(?!file:)[a-z][a-z0-9+.-]*:\/\//i.test(uri)) return uri.replace(/\/+$/, "");
  const folder = path.resolve(uri.replace(/^file:\/\//i, ""));
  return await realpath(folder).catch(() => folder);
}

async function checkpointSource(uri: string): Promise<CheckpointSource> {
  const checkpoint = await openCheckpoint(uri);
  const { generation, step: number } = checkpoint.meta.state;
  return { uri: checkpoint.uri, state: { generation: Number(generation), step: number } };
}
