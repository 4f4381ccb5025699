import type { RankProgress } from "../../gen/goku/v1/agent.pb.js";
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
import type { AnyJob } from "../../job/command_job.js";
import type { RanksView, RankView } from "../core/view_ranks.js";

/** One rank, its page as on the wire. */
export type RankDetail = Omit<RankView, "page"> & { progress: RankProgress | null };

/** One step or a run of them, as curves show it. Seconds, tokens and counts are sums over the run. */
export interface StepsPoint {
  /** The last of the run. */
  step: number;
  steps: number;
  /** When that step was told. */
  atMs: number;
  /** Of the last step that told it; null: none did. */
  loss: number | null;
  gradNorm: number | null;
  learningRate: number;
  tokens: number;
  stepSeconds: number;
  computeSeconds: number;
  commWaitSeconds: number;
  dataWaitSeconds: number;
  snapshotSeconds: number;
  packFill: number;
  votedDown: number;
}

import type { AsOf } from "./as_of.js";
import type { NotLeaderError } from "./not_leader_error.js";

/**
 * What a controller can be asked, whatever the wire. gRPC and REST handlers translate to these calls and back;
 * neither decides anything. Every method throws GokuErrors of the catalogue. What changes something needs a leader; what
 * reads is also answered by one whose lease has run out, from memory, as long as nobody else is known to lead: see asOf(). An empty job name means the newest job; a job's
 * id may stand for its name, since a run that is over keeps its name from no later one.
 */
export interface ControllerApi {
  submitJob(job: unknown, resumeUri: string | null): Promise<JobStatus>;
  listJobs(): JobStatus[];
  getJob(name: string): { status: JobStatus; spec: AnyJob; history: StepPoint[] };
  /** Curves of its steps since this controller leads, oldest first. */
  curves(name: string): StepsPoint[];
  /** Every rank of the newest generation. */
  ranks(name: string): RanksView;
  rank(name: string, rank: number): RankDetail;
  /** @param graceSeconds from 0 to STOP_GRACE.secondsMax; null: not said */
  stopJob(name: string, graceSeconds: number | null): Promise<JobStatus>;
  saveJob(name: string): Promise<void>;
  listNodes(): NodeStatus[];
  /** Connected agents whose metrics others can read, and where. */
  metricsTargets(): { node: string; url: string }[];
  /** Lifts a quarantine. */
  releaseNode(nodeId: string): Promise<void>;
  /** Gives a node no ranks any more; those that it has go on elsewhere after the next vote. */
  drainNode(nodeId: string): Promise<void>;
  /** Has nodes examined, none named: all; returns at once. */
  diagnose(nodeIds: string[]): Promise<Diagnosis>;
  /** The newest diagnosis, also while it is under way. */
  diagnosis(): Diagnosis;
  listCheckpoints(name: string): CheckpointRecord[];
  /** Those beside the job's checkpoints, in the order of their steps. */
  listPreviews(name: string): Promise<Preview[]>;
  /** One file of a preview, as listed. */
  previewFile(name: string, file: { step: number; name: string }): Promise<Uint8Array>;
  listIncidents(name: string): Incident[];
  logs(name: string, rank: number | null, limit: number): LogLine[];
  /** Throws NOT_LEADER where it has nothing to answer with, naming who leads where that is known. */
  requireKnowledge(): void;
  /** Null: it leads, and what it answers is of now. Else it answers from memory, and changes nothing. */
  asOf(): AsOf | null;
  /** Calls back when another controller is seen to lead, until the returned function is called. */
  onOtherLeads(callback: (error: NotLeaderError) => void): () => void;
  /** Events kept so far with a greater id, oldest first; `job` empty: all. */
  pastEvents(job: string, afterId: bigint): WatchEventsResponse[];
  /** Calls back with every later event until the returned function is called. */
  onEvent(callback: (event: WatchEventsResponse) => void): () => void;
  /** True when a job of that name will not change any more. */
  isOver(name: string): boolean;
  /** Leads, and the store answers. */
  isReady(): boolean;
  /** Why it is not ready. */
  standing(): string;
}
