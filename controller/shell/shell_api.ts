import { randomUUID } from "node:crypto";
import { realpath } from "node:fs/promises";
import path from "node:path";
import { listCheckpoints, openCheckpoint, splitCheckpointUri } from "../../checkpoint/load.js";
import { listPreviews, readPreviewFile } from "../../checkpoint/previews.js";
import type {
  CheckpointRecord,
  Diagnosis,
  Incident,
  JobStatus,
  LogLine,
  NodeStatus,
  Preview,
  StepPoint,
  WatchEventsResponse,
} from "../../gen/goku/v1/controller.pb.js";
import { type AnyJob, jobTraits } from "../../job/command_job.js";
import { GokuError } from "../../job/errors.js";
import { resolveAnyJob } from "../../job/load_job.js";
import { isLoopback } from "../../security/loopback.js";
import type { AsOf } from "../api/as_of.js";
import type { ControllerApi, RankDetail, StepsPoint } from "../api/controller_api.js";
import type { NotLeaderError } from "../api/not_leader_error.js";
import type { CheckpointSource } from "../core/contract.js";
import { type RanksView, ranksView, rankView } from "../core/view_ranks.js";
import { diagnosisView, type JobView, jobView, jobViews, nodeViews } from "../core/views.js";
import type { ControllerShell, Seen } from "./controller_shell.js";
import {
  checkpointMessages,
  diagnosisMessage,
  incidentMessage,
  jobStatus,
  nodeStatus,
  previewMessage,
  rankProgress,
} from "./views.js";

/** Answers questions from the core's state and what the shell keeps; passes requests to the core. */
export class ShellApi implements ControllerApi {
  readonly #shell: ControllerShell;

  constructor(shell: ControllerShell) {
    this.#shell = shell;
  }

  /** @param jobId of a caller that must not submit twice whatever happens; else a new one */
  async submitJob(job: unknown, resumeUri: string | null, jobId: string = randomUUID()): Promise<JobStatus> {
    const resolved = resolveAnyJob(job);
    const uri = jobTraits(resolved).checkpoint?.uri ?? null;
    if (uri === null && resumeUri !== null) {
      const where = `Cannot resume job ${resolved.name} from ${resumeUri}`;
      throw new GokuError("ARGUMENT_INVALID", `${where}: ${OWN_CHECKPOINTS}; submit it with gokuctl train`);
    }
    const source = resumeUri === null ? null : await checkpointSource(resumeUri);
    const found = uri === null ? NOTHING_FOUND : await findCheckpoints(uri, resumeUri);
    const reply = await this.#shell.request((requestId) => ({
      kind: "jobSubmitted",
      requestId,
      jobId,
      job: resolved,
      source,
      found,
    }));
    return this.#status(jobView(this.#shell.state, reply.jobId, this.#shell.nowMs())!);
  }

  listJobs(): JobStatus[] {
    const { state, atMs } = this.#seen();
    return jobViews(state, atMs).map((view) => this.#status(view));
  }

  getJob(name: string): { status: JobStatus; spec: AnyJob; history: StepPoint[] } {
    const job = this.#find(name);
    const points = this.#shell.histories.get(job.record.jobId)?.points() ?? [];
    return {
      status: this.#status(job),
      spec: job.record.job,
      history: points.map((p) => ({ step: BigInt(p.step), loss: p.loss })),
    };
  }

  curves(name: string): StepsPoint[] {
    return this.#shell.histories.get(this.#find(name).record.jobId)?.curves() ?? [];
  }

  ranks(name: string): RanksView {
    const seen = this.#seen();
    return ranksView(seen.state, this.#find(name, seen).record.jobId, seen.atMs);
  }

  rank(name: string, rank: number): RankDetail {
    const seen = this.#seen();
    const job = this.#find(name, seen);
    const view = rankView(seen.state, job.record.jobId, rank, seen.atMs);
    if (view !== null) {
      const { page, ...rest } = view;
      return { ...rest, progress: page === null ? null : rankProgress(page) };
    }
    const ranks = job.over ? 0 : job.rankNodes.length;
    const have = ranks === 0 ? "it has none now" : `it has ranks 0 to ${ranks - 1}`;
    throw new GokuError("NOT_FOUND", `Cannot show rank ${rank} of job ${job.record.job.name}: ${have}`);
  }

  async stopJob(name: string, graceSeconds: number | null): Promise<JobStatus> {
    const { jobId } = this.#find(name, this.#leading()).record;
    const graceMs = graceSeconds === null ? null : 1000 * graceSeconds;
    await this.#shell.request((requestId) => ({ kind: "stopRequested", requestId, jobId, graceMs }));
    return this.#status(jobView(this.#shell.state, jobId, this.#shell.nowMs())!);
  }

  async saveJob(name: string): Promise<void> {
    const { jobId } = this.#find(name, this.#leading()).record;
    await this.#shell.request((requestId) => ({ kind: "saveRequested", requestId, jobId }));
  }

  listNodes(): NodeStatus[] {
    const { state, atMs } = this.#seen();
    return nodeViews(state, atMs).map((view) => nodeStatus(view, this.#shell.jobName(view.jobId, state)));
  }

  metricsTargets(): { node: string; url: string }[] {
    return (
      [...this.#seen().state.nodes.values()]
        .filter(({ session, metricsUrl }) => session !== null && metricsUrl !== "")
        // On another machine's loopback only that machine could read them.
        .filter(({ host, metricsUrl }) => isLoopback(host) || !isLoopback(new URL(metricsUrl).hostname))
        .map(({ nodeId, metricsUrl }) => ({ node: nodeId, url: metricsUrl }))
    );
  }

  async releaseNode(nodeId: string): Promise<void> {
    await this.#shell.request((requestId) => ({ kind: "quarantineLifted", requestId, nodeId }));
  }

  async drainNode(nodeId: string): Promise<void> {
    await this.#shell.request((requestId) => ({ kind: "drainRequested", requestId, nodeId }));
  }

  async diagnose(nodeIds: string[]): Promise<Diagnosis> {
    await this.#shell.request((requestId) => ({ kind: "diagnosisRequested", requestId, nodeIds }));
    return this.diagnosis();
  }

  diagnosis(): Diagnosis {
    const view = diagnosisView(this.#seen().state);
    if (view !== null) return diagnosisMessage(view);
    throw new GokuError(
      "NOT_FOUND",
      "Cannot show a diagnosis: none was asked for since this controller leads",
    );
  }

  listCheckpoints(name: string): CheckpointRecord[] {
    const view = this.#find(name);
    const { job } = view.record;
    if (jobTraits(job).checkpoint === null)
      throw new GokuError("STATE_INVALID", `Cannot list checkpoints of job ${job.name}: ${OWN_CHECKPOINTS}`);
    return checkpointMessages(view);
  }

  async listPreviews(name: string): Promise<Preview[]> {
    return (await listPreviews(this.#checkpointUri(name))).map(previewMessage);
  }

  async previewFile(name: string, file: { step: number; name: string }): Promise<Uint8Array> {
    return readPreviewFile(this.#checkpointUri(name), file);
  }

  /** Beside the checkpoints are the previews. */
  #checkpointUri(name: string): string {
    const { job } = this.#find(name).record;
    const { checkpoint } = jobTraits(job);
    if (checkpoint !== null) return checkpoint.uri;
    throw new GokuError(
      "STATE_INVALID",
      `Cannot look for previews of job ${job.name}: it runs a program of its own (trainer.command), which draws what it likes itself`,
    );
  }

  listIncidents(name: string): Incident[] {
    const job = this.#find(name);
    return job.incidents.map((incident) => incidentMessage(incident, job.record.job.name));
  }

  logs(name: string, rank: number | null, limit: number): LogLine[] {
    return this.#shell.logs.last(this.#find(name).record.jobId, rank, limit);
  }

  requireKnowledge(): void {
    this.#seen();
  }

  asOf(): AsOf | null {
    return this.#shell.seen?.asOf ?? null;
  }

  onOtherLeads(callback: (error: NotLeaderError) => void): () => void {
    return this.#shell.onOtherLeads(callback);
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

  standing(): string {
    return this.#shell.standing;
  }

  /** Only a leader that has read its records knows what there is, or who led before; others would say that there is nothing. */
  #seen(): Seen {
    const { seen } = this.#shell;
    if (seen === null) throw this.#shell.notLeader("answer");
    return seen;
  }

  /** What is changed is changed by a leader. */
  #leading(): Seen {
    if (!this.isReady()) throw this.#shell.notLeader("answer");
    return this.#seen();
  }

  /** The newest job of that name, or the one of that id; the newest of all when the name is empty. */
  #find(name: string, { state, atMs } = this.#seen()): JobView {
    const jobs = jobViews(state, atMs);
    const found = jobs
      .filter(({ record }) => name === "" || name === record.job.name || name === record.jobId)
      .at(-1);
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

const OWN_CHECKPOINTS =
  "its checkpoints are those of its own program (trainer.command), which finds them itself";
const NOTHING_FOUND = { count: 0, generationHighest: 0, own: false };

/** What stands already where a job will write. */
async function findCheckpoints(uri: string, resumeUri: string | null) {
  const entries = await listCheckpoints(uri);
  const generations = entries.map((entry) => Number(entry.state.generation));
  return {
    count: entries.length,
    generationHighest: Math.max(0, ...generations),
    own: resumeUri !== null && (await isSameRoot(resumeUri, uri)),
  };
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
