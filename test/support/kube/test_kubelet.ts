import type { LocalCluster } from "../../../cli/local_cluster.js";
import {
  KubeError,
  type Pod,
  type PodStatus,
  type Terminated,
} from "../../../controller/kubernetes/kube_api.js";
import { AGENT_CONTAINER } from "../../../controller/kubernetes/pod_fate.js";
import type { ControlPlane } from "./control_plane.js";

/** Between looks at the pods. */
const LOOK_MS = 200;
const MERGE = "application/merge-patch+json";

/** The one container of a pod that is an agent. */
interface Held {
  name: string;
  restartCount: number;
  /** How its process ended; null: it runs. */
  ended: number | NodeJS.Signals | null;
  isTold: boolean;
}

/**
 * What kubelets do for the pods of all nodes, as far as the API shows it: agents are started as processes of this machine, ended
 * by SIGTERM when their pod is deleted, and started again when they end by themselves; pods of jobs succeed; of all others it is
 * said that they run. Images, volumes, networks and probes are left out.
 */
export class TestKubelet {
  readonly #plane: ControlPlane;
  readonly #cluster: LocalCluster;
  /** By uid of the pod. */
  readonly #held = new Map<string, Held>();
  /** Pods that a test has ended for want of memory. */
  readonly #outOfMemory = new Set<string>();
  #stopped = false;
  #running: Promise<void> = Promise.resolve();

  constructor(plane: ControlPlane, cluster: LocalCluster) {
    this.#plane = plane;
    this.#cluster = cluster;
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** The kernel ends a container that takes more than it may. */
  outOfMemory(name: string): void {
    this.#outOfMemory.add(name);
    process.kill(-this.#cluster.pid(name), "SIGKILL");
  }

  /** The machine is short of something: the pod fails, and what ran in it is ended at once. */
  async evict(name: string): Promise<void> {
    const message = "The node was low on resource: ephemeral-storage. ";
    const [uid] = [...this.#held].find(([, held]) => held.name === name && held.ended === null)!;
    process.kill(-this.#cluster.pid(name), "SIGKILL");
    await this.#tell({ name, uid }, { phase: "Failed", reason: "Evicted", message });
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const pods = await this.#unlessAway(() =>
        this.#plane.ask<{ items: Pod[] }>("GET", "/api/v1/namespaces/goku/pods"),
      );
      for (const pod of pods?.items ?? [])
        if (pod.spec.nodeName !== undefined) await this.#unlessAway(() => this.#look(pod));
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  /** The API server may be away, and pods change meanwhile: all is looked at again. */
  async #unlessAway<T>(act: () => Promise<T>): Promise<T | null> {
    try {
      return await act();
    } catch (error) {
      if (error instanceof KubeError) return null;
      throw error;
    }
  }

  async #look(pod: Pod): Promise<void> {
    const { labels = {}, deletionTimestamp } = pod.metadata;
    if (labels["app.kubernetes.io/component"] === "worker") return this.#lookAtAgent(pod);
    if (deletionTimestamp !== undefined) return this.#remove(pod);
    if (pod.status?.phase !== "Pending") return;
    const isOfJob = labels["job-name"] !== undefined;
    await this.#tell(pod.metadata, isOfJob ? { phase: "Succeeded" } : { phase: "Running", ...READY });
  }

  async #lookAtAgent(pod: Pod): Promise<void> {
    const { uid, name, deletionTimestamp } = pod.metadata;
    const held = this.#held.get(uid);
    if (held === undefined)
      return deletionTimestamp === undefined ? this.#begin(pod, 0, {}) : this.#remove(pod);
    if (deletionTimestamp !== undefined) {
      if (held.ended === null) {
        if (!held.isTold) process.kill(this.#cluster.pid(name), "SIGTERM");
        held.isTold = true;
        return;
      }
      const state = { terminated: this.#terminated(held) };
      await this.#tell(pod.metadata, {
        containerStatuses: [{ ...AGENT, restartCount: held.restartCount, state }],
      });
      return this.#remove(pod);
    }
    if (held.ended === null || pod.status?.phase !== "Running") return;
    await this.#begin(pod, held.restartCount + 1, { lastState: { terminated: this.#terminated(held) } });
  }

  /** Starts the container, for the first time or again. */
  async #begin({ metadata }: Pod, restartCount: number, before: object): Promise<void> {
    const { name, uid } = metadata;
    const state = { running: { startedAt: new Date().toISOString().replace(/\.\d+Z$/, "Z") } };
    const containerStatuses = [{ ...AGENT, ...before, restartCount, ready: true, state }];
    await this.#tell(metadata, { phase: "Running", ...READY, containerStatuses });
    this.#cluster.startAgent(name);
    const held: Held = { name, restartCount, ended: null, isTold: false };
    this.#held.set(uid, held);
    void this.#cluster.ended(name).then((how) => {
      held.ended = how;
    });
  }

  #terminated({ name, ended }: Held): Terminated {
    const isKill = ended === "SIGKILL";
    const reason = this.#outOfMemory.delete(name) ? "OOMKilled" : ended === 0 ? "Completed" : "Error";
    const finishedAt = new Date().toISOString().replace(/\.\d+Z$/, "Z");
    return { exitCode: isKill ? 137 : Number(ended), reason, finishedAt };
  }

  #tell({ name, uid }: { name: string; uid: string }, status: Partial<PodStatus> & object): Promise<void> {
    return this.#plane.ask("PATCH", `/api/v1/namespaces/goku/pods/${name}/status`, {
      type: MERGE,
      body: { metadata: { uid }, status },
    });
  }

  #remove({ metadata: { name, uid } }: Pod): Promise<void> {
    return this.#plane.ask("DELETE", `/api/v1/namespaces/goku/pods/${name}`, {
      body: { gracePeriodSeconds: 0, preconditions: { uid } },
    });
  }
}

const AGENT = { name: AGENT_CONTAINER, image: "goku-worker-cpu", imageID: "", ready: false };
/** One of those kept for documents, which nobody has: Endpoints take none of loopback. */
const ADDRESS = "192.0.2.1";
const READY = {
  podIP: ADDRESS,
  podIPs: [{ ip: ADDRESS }],
  conditions: ["Initialized", "ContainersReady", "Ready"].map((type) => ({ type, status: "True" })),
};
