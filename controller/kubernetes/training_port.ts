import type { NodeFate } from "../core/contract.js";
import type { JobPhase } from "../core/views.js";

/** What the Kubernetes side asks of the controller that it is part of. */
export interface TrainingPort {
  /** Leads, and the store answers. Nothing else is asked before. */
  isReady(): boolean;
  jobs(): TrainedJob[];
  quarantines(): Quarantine[];
  /**
   * Takes a job in under this id; a job of that id, or the very same under another, is not taken twice. Returns the id.
   * Throws GokuErrors.
   */
  submit(jobId: string, job: Record<string, unknown>, resumeUri: string | null): Promise<string>;
  /** Saves and stops. Throws GokuErrors. */
  stop(jobId: string): Promise<void>;
  /** Lifts a quarantine. Throws GokuErrors. */
  release(nodeId: string): Promise<void>;
  tellFate(nodeId: string, fate: NodeFate): void;
  /** What fails together with a node; null: nothing is known of it any more. */
  tellDomain(nodeId: string, domain: string | null): void;
}

export interface TrainedJob {
  jobId: string;
  name: string;
  phase: JobPhase;
  reason: string;
  /** Its outcome is durable. */
  over: boolean;
  /** Code of the error that it failed with. */
  code: string | null;
  step: number;
  /** Null: only its program knows. */
  stepsTotal: number | null;
  etaSeconds: number | null;
  loss: number | null;
  tokensPerSecond: number | null;
  /** Null: no generation has been formed. */
  layout: string | null;
  generation: number;
  checkpoint: { uri: string; step: number } | null;
  /** Oldest first. */
  incidents: readonly TrainedIncident[];
}

export interface TrainedIncident {
  number: number;
  code: string;
  what: string;
  decision: string;
  outcome: "open" | "recovered" | "failed";
  openedAtMs: number;
  closedAtMs: number | null;
  stepsLost: number | null;
}

export interface Quarantine {
  nodeId: string;
  reason: string;
  atMs: number;
  /** Null: a person must release it. */
  untilMs: number | null;
}
