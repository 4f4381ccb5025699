import { KubernetesShell } from "../../../controller/kubernetes/kubernetes_shell.js";
import { AGENT_CONTAINER } from "../../../controller/kubernetes/pod_fate.js";
import { TAINT } from "../../../controller/kubernetes/reconcile_nodes.js";
import { Random } from "../../sim/random.js";
import { VirtualClock } from "../virtual_clock.js";
import { SimKube } from "./sim_kube.js";
import { SimTraining } from "./sim_training.js";

const TICK_MS = 250;
/** From an eviction to the end of the pod. */
const GRACE_MS = 2_000;
const EPOCH_MS = Date.parse("2026-01-01T00:00:00Z");

/** A cluster in memory: API server, scheduler, StatefulSet and kubelets, and the controller's Kubernetes side against it. */
export class SimWorld {
  readonly random: Random;
  readonly clock = new VirtualClock();
  readonly kube: SimKube;
  readonly training: SimTraining;
  readonly warnings: string[] = [];
  readonly pods: number;
  #shell: KubernetesShell | null = null;
  /** Pods that are to be gone, by when. */
  readonly #ending = new Map<string, number>();

  constructor(options: { seed: number; machines: number; pods: number }) {
    this.random = new Random(options.seed);
    this.pods = options.pods;
    this.kube = new SimKube({ random: this.random, nowMs: this.nowMs });
    this.training = new SimTraining(this.nowMs);
    this.kube.onEvict = (name) => {
      if (this.#ending.has(name)) return;
      this.kube.change("pods", name, (pod) => {
        pod.status!.conditions = [
          { type: "DisruptionTarget", status: "True", reason: "EvictionByEvictionAPI" },
        ];
      });
      this.kube.delete("pods", name, GRACE_MS);
      this.#ending.set(name, this.nowMs() + GRACE_MS);
    };
    for (let machine = 0; machine < options.machines; machine++)
      this.kube.create("nodes", { metadata: { name: `m${machine}` }, spec: {} });
    this.#schedule();
  }

  nowMs = (): number => EPOCH_MS + this.clock.now();

  start(): void {
    this.#shell = new KubernetesShell({
      api: this.kube,
      training: this.training,
      clock: this.clock,
      wallMs: this.nowMs,
      log: { info: () => {}, warn: (_fields, text) => void this.warnings.push(text) },
      taintNodes: true,
      domainLabel: "topology.kubernetes.io/zone",
      pod: "c-0",
    });
    this.#shell.start();
  }

  /** The process of the controller ends, and its memory with it. */
  async stop(): Promise<void> {
    const stopping = this.#shell?.stop();
    this.#shell = null;
    for (let turn = 0; turn < 20; turn++) await settle();
    await stopping;
  }

  async restart(): Promise<void> {
    await this.stop();
    this.start();
  }

  async pass(ms: number, tickMs = TICK_MS): Promise<void> {
    for (let passed = 0; passed < ms; passed += tickMs) {
      await this.clock.advance(tickMs);
      this.training.tick();
      this.#schedule();
      await settle();
    }
  }

  async until(what: string, holds: () => boolean, limitMs = 900_000): Promise<void> {
    for (let passed = 0; passed < limitMs; passed += TICK_MS) {
      if (holds()) return;
      await this.pass(TICK_MS);
    }
    throw new Error(`in ${limitMs / 1000} s of virtual time it did not come that ${what}`);
  }

  machineOf(pod: string): string | undefined {
    return this.kube.get("pods", pod)?.spec.nodeName;
  }

  tainted(): string[] {
    return this.kube
      .allOf("nodes")
      .filter(({ spec }) => spec.taints?.some(({ key }) => key === TAINT))
      .map(({ metadata }) => metadata.name);
  }

  /** Pods end when their grace is over, and come back under the same name, where no taint keeps them away. */
  #schedule(): void {
    for (const [name, atMs] of this.#ending) {
      if (this.nowMs() < atMs) continue;
      this.#ending.delete(name);
      this.kube.remove("pods", name);
    }
    const free = this.kube
      .allOf("nodes")
      .filter(({ spec }) => !spec.taints?.some(({ effect }) => effect === "NoSchedule"));
    for (let index = 0; index < this.pods; index++) {
      const name = `w-${index}`;
      if (this.kube.get("pods", name) !== undefined || free.length === 0) continue;
      this.kube.create("pods", {
        metadata: { name },
        spec: { nodeName: this.random.pick(free).metadata.name, containers: [{ name: AGENT_CONTAINER }] },
        status: {
          phase: "Running",
          containerStatuses: [{ name: AGENT_CONTAINER, restartCount: 0, state: { running: {} } }],
        },
      });
    }
  }
}

/** Lets promise chains finish. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
