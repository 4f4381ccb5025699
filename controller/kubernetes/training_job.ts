import type { ObjectMeta } from "./kube_api.js";

export const GROUP = "goku.dev";
export const VERSION = "v1alpha1";
export const KIND = "TrainingJob";
export const PLURAL = "trainingjobs";
export const API_VERSION = `${GROUP}/${VERSION}`;
/** Keeps an object until its job has saved and stopped. */
export const FINALIZER = "goku.dev/save-and-stop";
/** Checkpoint to continue from. */
export const RESUME_ANNOTATION = "goku.dev/resume-from";

export interface TrainingJob {
  apiVersion: typeof API_VERSION;
  kind: typeof KIND;
  metadata: ObjectMeta;
  /** The job file; the API server has checked what the CRD says, nothing else is known of it. */
  spec: Record<string, unknown>;
  status?: TrainingJobStatus;
}

export type TrainingJobPhase =
  | "Queued"
  | "Forming"
  | "Running"
  | "Recovering"
  | "Stopping"
  | "Completed"
  | "Stopped"
  | "Failed"
  | "Rejected";

/** The same fields as in crd/status_schema.ts. Times are RFC 3339. */
export interface TrainingJobStatus {
  observedGeneration: number;
  jobId?: string;
  phase: TrainingJobPhase;
  reason: string;
  step?: number;
  stepsTotal?: number;
  eta?: string;
  loss?: string;
  layout?: string;
  generation?: number;
  checkpoint?: { uri: string; step: number };
  incidents?: number;
  lastIncident?: {
    number: number;
    code: string;
    what: string;
    decision: string;
    outcome: string;
    detectedAt: string;
  };
  trainerStatus?: {
    progressPercentage?: number;
    estimatedRemainingSeconds?: number;
    metrics: { name: string; value: string }[];
    lastUpdatedTime: string;
  };
  conditions: Condition[];
}

export interface Condition {
  type: "Accepted" | "Running" | "Recovering" | "Complete" | "Failed";
  status: "True" | "False" | "Unknown";
  reason: string;
  message: string;
  observedGeneration: number;
  lastTransitionTime: string;
}

/** It will not be trained any more under this object. */
export function isOver(status: TrainingJobStatus | undefined): boolean {
  return status !== undefined && ["Completed", "Stopped", "Failed", "Rejected"].includes(status.phase);
}
