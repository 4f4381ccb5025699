import type {
  CheckpointRecord,
  Incident,
  JobStatus,
  LogLine,
  NodeStatus,
  StepPoint,
  WatchEventsResponse,
} from "../../gen/goku/v1/controller.pb.js";
import type { Job } from "../../job/job.js";

/**
 * What a controller can be asked, whatever the wire. gRPC and REST handlers translate to these calls and back;
 * neither decides anything. Every method throws GokuErrors of the catalogue. An empty job name means the newest job.
 */
export interface ControllerApi {
  submitJob(job: unknown, resumeUri: string | null): Promise<JobStatus>;
  listJobs(): JobStatus[];
  getJob(name: string): { status: JobStatus; spec: Job; history: StepPoint[] };
  stopJob(name: string): Promise<JobStatus>;
  saveJob(name: string): Promise<void>;
  listNodes(): NodeStatus[];
  /** Lifts a quarantine. */
  releaseNode(nodeId: string): Promise<void>;
  listCheckpoints(name: string): CheckpointRecord[];
  listIncidents(name: string): Incident[];
  logs(name: string, rank: number | null, limit: number): LogLine[];
  /** Events kept so far with a greater id, oldest first; `job` empty: all. */
  pastEvents(job: string, afterId: bigint): WatchEventsResponse[];
  /** Calls back with every later event until the returned function is called. */
  onEvent(callback: (event: WatchEventsResponse) => void): () => void;
  /** True when a job of that name will not change any more. */
  isOver(name: string): boolean;
  /** Leads, and the store answers. */
  isReady(): boolean;
}
