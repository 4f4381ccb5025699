import { createInterface } from "node:readline";
import type { JobEvent, Kinds, KubeApi, KubeNode, Resource, Taint, WatchEvent } from "./kube_api.js";
import { APPLY, errorOf, type KubeHttp, MERGE, textOf } from "./kube_http.js";
import { API_VERSION, GROUP, KIND, PLURAL, type TrainingJob, VERSION } from "./training_job.js";

/** Who we are among the managers of fields. */
const MANAGER = "goku-controller";
/** The finalizer and the status are applied apart, so that neither apply takes back the other's fields. */
const STATUS_MANAGER = "goku-controller-status";
/** Pods that are agents. */
export const AGENT_PODS = "app.kubernetes.io/part-of=goku,app.kubernetes.io/component=worker";
/** Chosen by the Service of people. */
const LEADER_LABEL = "goku.dev/leader";
/** Asked of the API server; it ends each watch itself after that. */
const WATCH_SECONDS = 240;
/** Bookmarks come about every minute: a watch that is silent for longer is dead. */
const SILENCE_MS = 150_000;
const PAGE_ITEMS = 500;

/** The Kubernetes API over HTTP, in one namespace. */
export class HttpKubeApi implements KubeApi {
  readonly #http: KubeHttp;
  readonly #namespace: string;

  constructor(http: KubeHttp, namespace: string) {
    this.#http = http;
    this.#namespace = namespace;
  }

  close(): void {
    this.#http.close();
  }

  async list<R extends Resource>(
    resource: R,
    signal: AbortSignal,
  ): Promise<{ items: Kinds[R][]; resourceVersion: string }> {
    const items: Kinds[R][] = [];
    let next = "";
    for (;;) {
      const page = { limit: `${PAGE_ITEMS}`, ...(next === "" ? {} : { continue: next }) };
      const query = { ...page, ...selector(resource) };
      const answer = await this.#http.ask<{
        metadata: { resourceVersion: string; continue?: string };
        items: Kinds[R][];
      }>({ method: "GET", path: this.#path(resource), query }, signal);
      items.push(...answer.items);
      next = answer.metadata.continue ?? "";
      if (next === "") return { items, resourceVersion: answer.metadata.resourceVersion };
    }
  }

  async watch<R extends Resource>(
    resource: R,
    resourceVersion: string,
    onEvent: (event: WatchEvent<Kinds[R]>) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const query = {
      watch: "true",
      allowWatchBookmarks: "true",
      timeoutSeconds: `${WATCH_SECONDS}`,
      resourceVersion,
      ...selector(resource),
    };
    const response = await this.#http.send(
      { method: "GET", path: this.#path(resource), query },
      signal,
      SILENCE_MS,
    );
    if (response === null) return;
    if (response.statusCode !== 200) throw errorOf(response.statusCode ?? 0, await textOf(response));
    response.on("error", () => {}); // also told to whoever reads
    try {
      for await (const line of createInterface(response)) {
        if (signal.aborted) return;
        tell(line, onEvent);
      }
    } catch (error) {
      if (!signal.aborted) throw error; // left, which ends the stream with an error
    }
  }

  applyFinalizers({ name, uid }: { name: string; uid: string }, finalizers: string[]): Promise<TrainingJob> {
    return this.#apply(name, "", MANAGER, { metadata: { name, uid, finalizers } });
  }

  applyStatus({ name, uid }: { name: string; uid: string }, status: object): Promise<TrainingJob> {
    return this.#apply(name, "/status", STATUS_MANAGER, { metadata: { name, uid }, status });
  }

  #apply(name: string, subresource: string, fieldManager: string, fields: object): Promise<TrainingJob> {
    return this.#http.ask({
      method: "PATCH",
      path: `${this.#path(PLURAL)}/${name}${subresource}`,
      query: { fieldManager, force: "true" },
      body: { apiVersion: API_VERSION, kind: KIND, ...fields },
      type: APPLY,
    });
  }

  async createEvent({ name, type, reason, message, atMs, about }: JobEvent): Promise<void> {
    const time = new Date(atMs).toISOString();
    const body = {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name, namespace: this.#namespace },
      involvedObject: { apiVersion: API_VERSION, kind: KIND, namespace: this.#namespace, ...about },
      ...{ type, reason, message, action: reason, count: 1 },
      firstTimestamp: time.replace(/\.\d+Z$/, "Z"),
      lastTimestamp: time.replace(/\.\d+Z$/, "Z"),
      source: { component: MANAGER },
      reportingComponent: MANAGER,
      reportingInstance: MANAGER,
    };
    await this.#http.ask({ method: "POST", path: `/api/v1/namespaces/${this.#namespace}/events`, body });
  }

  patchNode(
    { name, resourceVersion }: { name: string; resourceVersion: string },
    { taints, annotations }: { taints: Taint[]; annotations: Record<string, string | null> },
  ): Promise<KubeNode> {
    const body = { metadata: { resourceVersion, annotations }, spec: { taints } };
    return this.#http.ask({ method: "PATCH", path: `/api/v1/nodes/${name}`, body, type: MERGE });
  }

  async markLeader(pod: string, leads: boolean): Promise<void> {
    const body = { metadata: { labels: { [LEADER_LABEL]: leads ? "true" : null } } };
    const path = `/api/v1/namespaces/${this.#namespace}/pods/${pod}`;
    await this.#http.ask({ method: "PATCH", path, body, type: MERGE });
  }

  async evict({ name, uid }: { name: string; uid: string }): Promise<void> {
    const body = {
      apiVersion: "policy/v1",
      kind: "Eviction",
      metadata: { name, namespace: this.#namespace },
      deleteOptions: { preconditions: { uid } },
    };
    const path = `/api/v1/namespaces/${this.#namespace}/pods/${name}/eviction`;
    await this.#http.ask({ method: "POST", path, body });
  }

  #path(resource: Resource): string {
    if (resource === "nodes") return "/api/v1/nodes";
    const inside = `namespaces/${this.#namespace}`;
    return resource === "pods" ? `/api/v1/${inside}/pods` : `/apis/${GROUP}/${VERSION}/${inside}/${PLURAL}`;
  }
}

function selector(resource: Resource): Record<string, string> {
  return resource === "pods" ? { labelSelector: AGENT_PODS } : {};
}

function tell<R extends Resource>(line: string, onEvent: (event: WatchEvent<Kinds[R]>) => void): void {
  const { type, object } = JSON.parse(line) as { type: string; object: never };
  if (type === "ERROR") {
    const { code, message } = object as { code: number; message: string };
    throw errorOf(code, JSON.stringify({ message }));
  }
  if (type === "BOOKMARK") {
    const { metadata } = object as { metadata: { resourceVersion: string } };
    onEvent({ type, resourceVersion: metadata.resourceVersion });
  } else onEvent({ type: type as "ADDED" | "MODIFIED" | "DELETED", object });
}
