import type { Clock } from "../store/clock.js";
import { failureDomains } from "./failure_domains.js";
import { Informer } from "./informer.js";
import { type JobEvent, type KubeApi, KubeError, type Pod } from "./kube_api.js";
import { goneFate, nodeIdOf, type PodFate, podFate } from "./pod_fate.js";
import { type JobAction, reconcileJob } from "./reconcile_job.js";
import { type NodeAction, reconcileNodes } from "./reconcile_nodes.js";
import { Submissions } from "./submissions.js";
import { FINALIZER, isOver, type TrainingJob } from "./training_job.js";
import type { TrainingPort } from "./training_port.js";

/** Progress is looked at so often, besides whenever something changes. */
const LOOK_MS = 1_000;
/** After an object's action failed: this, doubling. */
const BACKOFF_MS = 1_000;
const BACKOFF_MS_MAX = 60_000;
const TRANSIENT: ReadonlySet<KubeError["kind"]> = new Set(["unreachable", "busy"]);
/** A request under way when this ends is given so long for its answer: an API server that is silent holds nothing up. */
const STOP_MS = 1_000;
/** Fates that were told; forgotten oldest first. */
const TOLD_MAX = 10_000;

export interface KubernetesLog {
  info(fields: object, text: string): void;
  warn(fields: object, text: string): void;
}

export interface KubernetesOptions {
  api: KubeApi;
  training: TrainingPort;
  clock: Clock;
  /** Wall clock, as objects have it. */
  wallMs(): number;
  log: KubernetesLog;
  /** Taint and untaint machines, which needs rights on all nodes of the cluster. */
  taintNodes: boolean;
  /** Label of machines whose value is the failure domain of what runs there, which needs the right to read nodes; null: none. */
  domainLabel: string | null;
  /** The pod that this controller runs in, to be marked while it leads; null: none. */
  pod: string | null;
}

/**
 * The thin shell around the decisions: observes, asks `reconcileJob` and `reconcileNodes`, does what they say, one thing at
 * a time; submissions alone go on beside that, since they read storage that may hang. Whatever fails is observed again. Only the
 * controller that leads does anything; training never waits for it.
 */
export class KubernetesShell {
  readonly #options: KubernetesOptions;
  readonly #jobs: Informer<"trainingjobs">;
  readonly #pods: Informer<"pods">;
  readonly #machines: Informer<"nodes"> | null;
  readonly #submissions: Submissions;
  readonly #failures = new Map<string, { count: number; untilMs: number }>();
  readonly #told = new Set<string>();
  /** Failure domains that were told since this controller leads. */
  readonly #domains = new Map<string, string>();
  readonly #troubled = new Set<string>();
  #timer: (() => void) | null = null;
  #passing: Promise<void> | null = null;
  #again = false;
  #stopped = false;
  /** What the label on the own pod says; null: not known. */
  #marked: boolean | null = null;
  /** Pods that were there when this controller began to lead have ended before. */
  #led = false;

  constructor(options: KubernetesOptions) {
    this.#options = options;
    const { api, clock, training, wallMs, log } = options;
    const onChange = () => this.#wake();
    this.#submissions = new Submissions({ training, wallMs, log, onEnd: onChange });
    const common = (name: string) => ({
      api,
      clock,
      onChange,
      onTrouble: (error: KubeError | null) => this.#trouble(name, error),
    });
    this.#jobs = new Informer({ ...common("trainingjobs"), resource: "trainingjobs" });
    this.#pods = new Informer({
      ...common("pods"),
      resource: "pods",
      onGone: (pod) => this.#tell(pod, goneFate(pod)),
    });
    const readsMachines = options.taintNodes || options.domainLabel !== null;
    this.#machines = readsMachines ? new Informer({ ...common("nodes"), resource: "nodes" }) : null;
  }

  start(): void {
    for (const informer of this.#informers()) informer.start();
    this.#arm();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.();
    const { api, clock } = this.#options;
    const cancel = clock.after(STOP_MS, () => api.close());
    await Promise.all(this.#informers().map((informer) => informer.stop()));
    await this.#passing;
    cancel();
  }

  #informers() {
    return [this.#jobs, this.#pods, ...(this.#machines === null ? [] : [this.#machines])];
  }

  #arm(): void {
    if (this.#stopped) return;
    this.#timer = this.#options.clock.after(LOOK_MS, () => {
      this.#wake();
      this.#arm();
    });
  }

  /** One pass at a time; what changes meanwhile makes another one. */
  #wake(): void {
    if (this.#stopped) return;
    if (this.#passing !== null) {
      this.#again = true;
      return;
    }
    this.#passing = this.#pass()
      .catch((error: Error) =>
        this.#options.log.warn({ error: error.message }, "a pass over Kubernetes failed"),
      )
      .finally(() => {
        this.#passing = null;
        if (!this.#again) return;
        this.#again = false;
        this.#wake();
      });
  }

  async #pass(): Promise<void> {
    await this.#markPod();
    if (!this.#options.training.isReady()) {
      this.#led = false;
      this.#domains.clear();
      return;
    }
    this.#tellDomains();
    this.#tellFates();
    await this.#passJobs();
    await this.#passNodes();
  }

  /** Once for each change, and once after a start: the one before may have ended as leader. */
  async #markPod(): Promise<void> {
    const { api, training, pod } = this.#options;
    const leads = training.isReady();
    if (pod === null || this.#marked === leads) return;
    await this.#attempt("leader", async () => {
      await api.markLeader(pod, leads);
      this.#marked = leads;
    });
  }

  async #passJobs(): Promise<void> {
    const { training, wallMs } = this.#options;
    if (!this.#jobs.synced) return;
    const objects = this.#jobs.all();
    this.#forgetJobs(new Set(objects.map(({ metadata }) => metadata.uid)));
    const wanted = objects.filter(needsLook);
    if (wanted.length === 0) return;
    // Looked at once: views of all jobs for every one of them would be their square. A submission that is under way, or ends
    // during this pass, is not in it: its object waits for the next one, else a deletion could let go of a job that was just taken.
    const trained = new Map(training.jobs().map((job) => [job.jobId, job]));
    const underWay = this.#submissions.underWay();
    for (const object of wanted) {
      const { uid } = object.metadata;
      if (!this.#mayAct()) return;
      if (underWay.has(uid)) continue;
      const refusal = this.#submissions.refusal(uid);
      const actions = reconcileJob({ object, trained, refusal, nowMs: wallMs() });
      await this.#attempt(`job/${uid}`, async () => {
        for (const action of actions) if (this.#mayAct()) await this.#performJob(action);
      });
    }
  }

  #mayAct(): boolean {
    return !this.#stopped && this.#options.training.isReady();
  }

  #forgetJobs(living: ReadonlySet<string>): void {
    this.#submissions.forgetOthers(living);
    for (const key of this.#failures.keys())
      if (key.startsWith("job/") && !living.has(key.split("/")[1]!)) this.#failures.delete(key);
  }

  async #performJob(action: JobAction): Promise<void> {
    const { api, training } = this.#options;
    switch (action.kind) {
      case "applyFinalizers":
        this.#jobs.put(await api.applyFinalizers(action.job, action.finalizers));
        return;
      case "applyStatus":
        this.#jobs.put(await api.applyStatus(action.job, action.status));
        return;
      case "createEvent":
        if (!this.#told.has(action.event.name)) await this.#createEvent(action.job.uid, action.event);
        return;
      case "stop":
        await training.stop(action.jobId);
        return;
      case "submit":
        this.#submissions.begin(action.job, action.spec, action.resumeUri);
        return;
    }
  }

  /**
   * An event that the API server will not have is no reason to hold the rest up. One that it forbids is tried again in its own
   * time: a server that has just started forbids everything until it has read the roles.
   */
  async #createEvent(uid: string, event: JobEvent): Promise<void> {
    const { api, log } = this.#options;
    const key = `job/${uid}/${event.name}`;
    if (this.#waits(key)) return;
    try {
      await api.createEvent(event);
    } catch (error) {
      if (!(error instanceof KubeError) || TRANSIENT.has(error.kind)) throw error;
      if (error.kind === "forbidden") {
        this.#failed(key, error);
        return;
      }
      if (error.kind !== "exists") log.warn({ event: event.name }, error.message);
    }
    this.#failures.delete(key);
    this.#remember(event.name);
  }

  #tellFates(): void {
    if (!this.#pods.synced) return;
    const fates = this.#pods.all().map((pod) => ({ pod, told: podFate(pod) }));
    for (const { pod, told } of fates) {
      if (told === null) continue;
      // A leader that has just come knows of no incident that an old end could explain.
      if (!this.#led && told.fate.endsAtMs === null && !told.fate.down) this.#remember(told.key);
      this.#tell(pod, told);
    }
    this.#led = true;
  }

  #tellDomains(): void {
    const { training, domainLabel } = this.#options;
    if (domainLabel === null || !this.#machines!.synced || !this.#pods.synced) return;
    const domains = failureDomains(this.#pods.all(), this.#machines!.all(), domainLabel);
    for (const [nodeId, domain] of domains)
      if (this.#domains.get(nodeId) !== domain) training.tellDomain(nodeId, domain);
    for (const nodeId of this.#domains.keys()) if (!domains.has(nodeId)) training.tellDomain(nodeId, null);
    this.#domains.clear();
    for (const [nodeId, domain] of domains) this.#domains.set(nodeId, domain);
  }

  #tell(pod: Pod, { key, fate }: PodFate): void {
    const { training } = this.#options;
    if (this.#told.has(key) || !training.isReady()) return;
    this.#remember(key);
    training.tellFate(nodeIdOf(pod), fate);
  }

  async #passNodes(): Promise<void> {
    const { training, wallMs, taintNodes } = this.#options;
    if (!taintNodes || !this.#machines!.synced || !this.#pods.synced) return;
    const actions = reconcileNodes({
      quarantines: training.quarantines(),
      pods: this.#pods.all(),
      machines: this.#machines!.all(),
      nowMs: wallMs(),
    });
    const keyed = actions.map((action) => ({ action, key: `node/${action.kind}/${targetOf(action)}` }));
    const wanted = new Set(keyed.map(({ key }) => key));
    for (const key of this.#failures.keys())
      if (key.startsWith("node/") && !wanted.has(key)) this.#failures.delete(key);
    for (const { action, key } of keyed) await this.#attempt(key, () => this.#performNode(action));
  }

  async #performNode(action: NodeAction): Promise<void> {
    const { api, training, log } = this.#options;
    if (!this.#mayAct()) return;
    switch (action.kind) {
      case "patchNode":
        this.#machines!.put(await api.patchNode(action.node, action.change));
        break;
      case "evict":
        await api.evict(action.pod);
        break;
      case "release":
        await training.release(action.nodeId);
        break;
    }
    log.info({ action: action.kind, target: targetOf(action) }, `${action.kind}: ${action.reason}`);
  }

  /** What failed is tried again later, each thing in its own time; what is gone is nothing to worry about. */
  async #attempt(key: string, act: () => Promise<void>): Promise<void> {
    if (this.#waits(key)) return;
    try {
      await act();
      this.#failures.delete(key);
    } catch (error) {
      if (!(error instanceof KubeError && error.kind === "notFound")) this.#failed(key, error as Error);
    }
  }

  #waits(key: string): boolean {
    const failed = this.#failures.get(key);
    return failed !== undefined && this.#options.clock.now() < failed.untilMs;
  }

  #failed(key: string, error: Error): void {
    const { clock, log } = this.#options;
    const count = (this.#failures.get(key)?.count ?? 0) + 1;
    const pauseMs = Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** (count - 1));
    this.#failures.set(key, { count, untilMs: clock.now() + pauseMs });
    log.warn({ what: key, tries: count }, error.message);
  }

  /** Said once, however long it lasts. */
  #trouble(name: string, error: KubeError | null): void {
    const { log } = this.#options;
    if (error === null) {
      if (this.#troubled.delete(name)) log.info({ resource: name }, `Kubernetes answers again for ${name}`);
      return;
    }
    if (this.#troubled.has(name)) return;
    this.#troubled.add(name);
    const text = `Cannot read ${name} from Kubernetes: ${error.message}; goes on trying, training goes on meanwhile`;
    log.warn({ resource: name }, text);
  }

  #remember(key: string): void {
    this.#told.add(key);
    if (this.#told.size <= TOLD_MAX) return;
    for (const first of this.#told) {
      this.#told.delete(first);
      return;
    }
  }
}

/** One that is over and that nothing holds stays as it is, for as long as people keep it. */
function needsLook({ metadata, status }: TrainingJob): boolean {
  return !isOver(status) || (metadata.finalizers ?? []).includes(FINALIZER);
}

function targetOf(action: NodeAction): string {
  if (action.kind === "patchNode") return action.node.name;
  return action.kind === "evict" ? action.pod.name : action.nodeId;
}
