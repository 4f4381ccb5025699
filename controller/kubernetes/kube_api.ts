import type { TrainingJob } from "./training_job.js";

/** What this product asks of the Kubernetes API: the whole contract between its decisions and a cluster. */

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid: string;
  resourceVersion: string;
  generation?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
  creationTimestamp: string;
  /** When it is to be gone: the time of the deletion plus the grace. */
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
}

export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata: ObjectMeta;
}

export interface Pod extends KubeObject {
  spec: {
    nodeName?: string;
    containers: { name: string; resources?: { limits?: Record<string, string> } }[];
  };
  status?: PodStatus;
}

export interface PodStatus {
  phase?: string;
  /** Of the whole pod, such as Evicted or NodeLost. */
  reason?: string;
  message?: string;
  conditions?: { type: string; status: string; reason?: string; message?: string }[];
  containerStatuses?: ContainerStatus[];
}

export interface ContainerStatus {
  name: string;
  restartCount: number;
  state?: { running?: object; waiting?: object; terminated?: Terminated };
  lastState?: { terminated?: Terminated };
}

export interface Terminated {
  exitCode: number;
  signal?: number;
  reason?: string;
  message?: string;
  finishedAt?: string;
}

export interface Taint {
  key: string;
  value?: string;
  effect: string;
  timeAdded?: string;
}

export interface KubeNode extends KubeObject {
  spec: { taints?: Taint[]; unschedulable?: boolean };
}

export type Resource = "trainingjobs" | "pods" | "nodes";
export interface Kinds {
  trainingjobs: TrainingJob;
  pods: Pod;
  nodes: KubeNode;
}

export type WatchEvent<T> =
  | { type: "ADDED" | "MODIFIED" | "DELETED"; object: T }
  | { type: "BOOKMARK"; resourceVersion: string };

/** An answer of the API server, or that none came: `unreachable` may have been carried out. */
export class KubeError extends Error {
  readonly kind:
    | "conflict"
    | "exists"
    | "gone"
    | "notFound"
    | "forbidden"
    | "invalid"
    | "busy"
    | "unreachable";

  constructor(kind: KubeError["kind"], message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.name = "KubeError";
    this.kind = kind;
  }
}

/** A core/v1 Event about a TrainingJob; its name makes it the same one however often it is created. */
export interface JobEvent {
  name: string;
  type: "Normal" | "Warning";
  reason: string;
  message: string;
  atMs: number;
  about: { name: string; uid: string };
}

/** Every method that asks throws KubeErrors. */
export interface KubeApi {
  /** Whatever waits for an answer waits no longer, and nothing is asked any more: `unreachable`. */
  close(): void;
  /** Of the pods those of agents alone. Throws at once when the signal comes. */
  list<R extends Resource>(
    resource: R,
    signal: AbortSignal,
  ): Promise<{ items: Kinds[R][]; resourceVersion: string }>;
  /**
   * Events after that version, until the stream ends, which it does now and then; resolves then. Throws `gone` where the
   * version is too old to go on from.
   */
  watch<R extends Resource>(
    resource: R,
    resourceVersion: string,
    onEvent: (event: WatchEvent<Kinds[R]>) => void,
    signal: AbortSignal,
  ): Promise<void>;
  /** Server-side apply of the finalizers that are ours: one, or none. Answers with the object as it is then. */
  applyFinalizers(job: { name: string; uid: string }, finalizers: string[]): Promise<TrainingJob>;
  /** Server-side apply of the whole status. */
  applyStatus(job: { name: string; uid: string }, status: object): Promise<TrainingJob>;
  createEvent(event: JobEvent): Promise<void>;
  /** Taints are one list, whoever set them: written only while the node is as it was read. Annotations of null are removed. */
  patchNode(
    node: { name: string; resourceVersion: string },
    change: { taints: Taint[]; annotations: Record<string, string | null> },
  ): Promise<KubeNode>;
  /** The label that a Service finds the leader by, on or off a pod. */
  markLeader(pod: string, leads: boolean): Promise<void>;
  /** By the eviction API, which honours disruption budgets: `busy` where one stands against it. Only that very pod. */
  evict(pod: { name: string; uid: string }): Promise<void>;
}
