import {
  type JobEvent,
  type Kinds,
  type KubeApi,
  KubeError,
  type KubeNode,
  type KubeObject,
  type Resource,
  type Taint,
  type WatchEvent,
} from "../../../controller/kubernetes/kube_api.js";
import type { TrainingJob } from "../../../controller/kubernetes/training_job.js";
import type { Random } from "../../sim/random.js";

/** Chances of one call or event to go wrong. */
export interface KubeFaults {
  /** No answer; half of them after the write was carried out. */
  unreachable: number;
  /** A watch ends, as proxies and restarts end them. */
  cut: number;
  /** A watch goes quiet without ending, and what happens meanwhile is never told on it. */
  quiet: number;
  /** An event is told twice. */
  repeat: number;
  /** All history is forgotten: whoever wants to go on from it is told 410 Gone. */
  compact: number;
}
export const NO_FAULTS: KubeFaults = { unreachable: 0, cut: 0, quiet: 0, repeat: 0, compact: 0 };

interface Entry {
  revision: number;
  resource: Resource;
  type: "ADDED" | "MODIFIED" | "DELETED";
  object: KubeObject;
}
interface Watcher {
  resource: Resource;
  quiet: boolean;
  tell(entry: Entry): void;
  end(error?: KubeError): void;
}

/**
 * An API server in memory: objects with versions and uids, finalizers, watches with history, optimistic concurrency; with
 * faults that a seed decides. Only what the controller uses. Every object handed out is a copy.
 */
export class SimKube implements KubeApi {
  readonly random: Random;
  readonly nowMs: () => number;
  faults: KubeFaults = NO_FAULTS;
  /** Nobody answers. */
  down = false;
  /** Writes of these are refused, as an API server that has just started refuses everybody until it has read the roles. */
  forbidden: "nothing" | "events" | "all" = "nothing";
  /** Lists are never answered. */
  hangs = false;
  readonly events = new Map<string, JobEvent>();
  readonly leaders = new Set<string>();
  /** Writes that were carried out, by what they were; for those who count. */
  readonly writes: string[] = [];
  /** Called for an eviction that is allowed; the simulated kubelet ends the pod. */
  onEvict: (name: string) => void = () => {};
  /** Evictions that a disruption budget allows. */
  evictionsAllowed = Number.POSITIVE_INFINITY;
  readonly #objects: Record<Resource, Map<string, KubeObject>> = {
    trainingjobs: new Map(),
    pods: new Map(),
    nodes: new Map(),
  };
  #revision = 1;
  #uidLast = 0;
  #history: Entry[] = [];
  #compacted = 0;
  readonly #watchers = new Set<Watcher>();

  constructor(options: { random: Random; nowMs: () => number }) {
    this.random = options.random;
    this.nowMs = options.nowMs;
  }

  // What others in the cluster do: it is carried out whatever the faults.

  create<R extends Resource>(
    resource: R,
    object: Omit<Kinds[R], "metadata"> & { metadata: { name: string } & object },
  ): Kinds[R] {
    const metadata = {
      ...object.metadata,
      uid: `uid-${++this.#uidLast}`,
      generation: 1,
      resourceVersion: "0",
      creationTimestamp: new Date(this.nowMs()).toISOString().replace(/\.\d+Z$/, "Z"),
    };
    const created = { ...object, metadata } as unknown as Kinds[R];
    return this.#put(resource, "ADDED", created);
  }

  /** With finalizers it is marked only, and goes with the last of them. */
  delete(resource: Resource, name: string, graceMs = 0): void {
    const object = this.#objects[resource].get(name);
    if (object === undefined) return;
    const deletionTimestamp = new Date(this.nowMs() + graceMs).toISOString();
    object.metadata.deletionTimestamp ??= deletionTimestamp;
    object.metadata.deletionGracePeriodSeconds ??= graceMs / 1000;
    if (graceMs > 0 || (object.metadata.finalizers ?? []).length > 0) this.#put(resource, "MODIFIED", object);
    else this.remove(resource, name);
  }

  remove(resource: Resource, name: string): void {
    const object = this.#objects[resource].get(name);
    if (object === undefined) return;
    this.#objects[resource].delete(name);
    this.#record(resource, "DELETED", object);
  }

  change<R extends Resource>(resource: R, name: string, change: (object: Kinds[R]) => void): void {
    const object = this.#objects[resource].get(name) as Kinds[R] | undefined;
    if (object === undefined) return;
    change(object);
    this.#put(resource, "MODIFIED", object);
  }

  get<R extends Resource>(resource: R, name: string): Kinds[R] | undefined {
    const object = this.#objects[resource].get(name);
    return object === undefined ? undefined : (structuredClone(object) as Kinds[R]);
  }

  allOf<R extends Resource>(resource: R): Kinds[R][] {
    return [...this.#objects[resource].values()].map((object) => structuredClone(object) as Kinds[R]);
  }

  /** The server restarts: every stream ends, nothing else is lost. */
  cutAll(): void {
    for (const watcher of [...this.#watchers]) watcher.end();
  }

  // What the controller asks.

  /** It is every controller's, and answers within a turn: there is nothing to give up. */
  close(): void {}

  async list<R extends Resource>(
    resource: R,
    signal: AbortSignal,
  ): Promise<{ items: Kinds[R][]; resourceVersion: string }> {
    if (this.hangs)
      await new Promise((_, reject) =>
        signal.addEventListener("abort", () => reject(noAnswer()), { once: true }),
      );
    await this.#answer("list", () => {});
    return { items: this.allOf(resource), resourceVersion: String(this.#revision) };
  }

  watch<R extends Resource>(
    resource: R,
    resourceVersion: string,
    onEvent: (event: WatchEvent<Kinds[R]>) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const from = Number(resourceVersion);
    if (this.down || this.#happens("unreachable")) return Promise.reject(noAnswer());
    if (this.#happens("compact")) this.#compact();
    if (from < this.#compacted) return Promise.reject(new KubeError("gone", `${from} is too old`));
    return new Promise((resolve, reject) => {
      const watcher: Watcher = {
        resource,
        quiet: false,
        tell: ({ type, object }) => {
          if (this.#happens("cut")) return watcher.end();
          if (this.#happens("quiet")) watcher.quiet = true;
          if (watcher.quiet) return;
          const times = this.#happens("repeat") ? 2 : 1;
          for (let time = 0; time < times; time++)
            onEvent({ type, object: structuredClone(object) as Kinds[R] });
        },
        end: (error) => {
          this.#watchers.delete(watcher);
          if (error) reject(error);
          else resolve();
        },
      };
      if (signal.aborted) return resolve();
      this.#watchers.add(watcher);
      signal.addEventListener("abort", () => watcher.end(), { once: true });
      for (const entry of this.#history.filter((one) => one.revision > from && one.resource === resource)) {
        if (!this.#watchers.has(watcher)) break;
        watcher.tell(entry);
      }
    });
  }

  applyFinalizers(job: { name: string; uid: string }, finalizers: string[]): Promise<TrainingJob> {
    return this.#answer(`finalizers ${job.name}`, () => {
      const object = this.#job(job);
      object.metadata.finalizers = [...finalizers];
      if (object.metadata.deletionTimestamp !== undefined && finalizers.length === 0) {
        this.remove("trainingjobs", job.name);
        return structuredClone(object);
      }
      return this.#put("trainingjobs", "MODIFIED", object);
    });
  }

  applyStatus(job: { name: string; uid: string }, status: object): Promise<TrainingJob> {
    return this.#answer(`status ${job.name}`, () => {
      const object = this.#job(job);
      object.status = structuredClone(status) as NonNullable<TrainingJob["status"]>;
      return this.#put("trainingjobs", "MODIFIED", object);
    });
  }

  createEvent(event: JobEvent): Promise<void> {
    return this.#answer(`event ${event.name}`, () => {
      if (this.events.has(event.name)) throw new KubeError("exists", `${event.name} exists`);
      this.events.set(event.name, structuredClone(event));
    });
  }

  patchNode(
    node: { name: string; resourceVersion: string },
    { taints, annotations }: { taints: Taint[]; annotations: Record<string, string | null> },
  ): Promise<KubeNode> {
    return this.#answer(`node ${node.name}`, () => {
      const object = this.#objects.nodes.get(node.name) as KubeNode | undefined;
      if (object === undefined) throw new KubeError("notFound", `no node ${node.name}`);
      if (object.metadata.resourceVersion !== node.resourceVersion)
        throw new KubeError("conflict", `${node.name} has changed since`);
      object.spec.taints = structuredClone(taints);
      object.metadata.annotations ??= {};
      for (const [key, value] of Object.entries(annotations)) {
        if (value === null) delete object.metadata.annotations[key];
        else object.metadata.annotations[key] = value;
      }
      return this.#put("nodes", "MODIFIED", object);
    });
  }

  markLeader(pod: string, leads: boolean): Promise<void> {
    return this.#answer(`leader ${pod} ${leads}`, () => {
      if (leads) this.leaders.add(pod);
      else this.leaders.delete(pod);
    });
  }

  evict({ name, uid }: { name: string; uid: string }): Promise<void> {
    return this.#answer(`evict ${name}`, () => {
      const pod = this.#objects.pods.get(name);
      if (pod === undefined) throw new KubeError("notFound", `no pod ${name}`);
      if (pod.metadata.uid !== uid) throw new KubeError("conflict", `${name} is another pod now`);
      if (this.evictionsAllowed <= 0) throw new KubeError("busy", "a disruption budget stands against it");
      this.evictionsAllowed -= 1;
      this.onEvict(name);
    });
  }

  /** Carries something out and answers, or does one of the two, or neither. */
  async #answer<T>(what: string, act: () => T): Promise<T> {
    const lost = this.#happens("unreachable");
    if (this.down || (lost && this.random.chance(0.5))) throw noAnswer();
    const isRefused = this.forbidden === "all" ? what !== "list" : what.startsWith("event ");
    if (this.forbidden !== "nothing" && isRefused) throw new KubeError("forbidden", `not allowed: ${what}`);
    const result = act();
    if (what !== "list") this.writes.push(what);
    if (lost) throw noAnswer();
    return result;
  }

  #job({ name, uid }: { name: string; uid: string }): TrainingJob {
    const object = this.#objects.trainingjobs.get(name) as TrainingJob | undefined;
    if (object?.metadata.uid !== uid) throw new KubeError("conflict", `no TrainingJob ${name} of uid ${uid}`);
    return object;
  }

  #put<R extends Resource>(resource: R, type: Entry["type"], object: Kinds[R] | KubeObject): Kinds[R] {
    this.#objects[resource].set(object.metadata.name, object);
    this.#record(resource, type, object);
    return structuredClone(object) as Kinds[R];
  }

  #record(resource: Resource, type: Entry["type"], object: KubeObject): void {
    this.#revision += 1;
    object.metadata.resourceVersion = String(this.#revision);
    const entry = { revision: this.#revision, resource, type, object: structuredClone(object) };
    this.#history.push(entry);
    if (this.#happens("compact")) this.#compact();
    for (const watcher of [...this.#watchers]) if (watcher.resource === resource) watcher.tell(entry);
  }

  #compact(): void {
    this.#compacted = this.#revision;
    this.#history = [];
  }

  #happens(fault: keyof KubeFaults): boolean {
    return this.faults[fault] > 0 && this.random.chance(this.faults[fault]);
  }
}

function noAnswer(): KubeError {
  return new KubeError("unreachable", "Cannot reach the Kubernetes API: simulated");
}
