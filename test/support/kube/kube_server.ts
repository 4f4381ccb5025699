import { readFileSync } from "node:fs";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { KubeConfig } from "@kubernetes/client-node";
import { parseAllDocuments } from "yaml";
import { KubeError, type Resource } from "../../../controller/kubernetes/kube_api.js";
import { KubeHttp } from "../../../controller/kubernetes/kube_http.js";
import type { SimKube } from "./sim_kube.js";

interface Rule {
  apiGroups: string[];
  resources: string[];
  resourceNames?: string[];
  verbs: string[];
}
interface Asked {
  group: string;
  resource: string;
  name: string;
  verb: string;
}

const CODES: Record<KubeError["kind"], [number, string]> = {
  conflict: [409, "Conflict"],
  exists: [409, "AlreadyExists"],
  gone: [410, "Expired"],
  notFound: [404, "NotFound"],
  forbidden: [403, "Forbidden"],
  invalid: [422, "Invalid"],
  busy: [429, "TooManyRequests"],
  unreachable: [503, "ServiceUnavailable"],
};
/** Small, so that every list takes several. */
const PAGE_ITEMS = 2;

/** Rules of the roles of that name in manifests. */
export function rulesOf(files: readonly string[], roles: readonly string[]): Rule[] {
  return files
    .flatMap((file) => parseAllDocuments(readFileSync(file, "utf8")))
    .map((document) => document.toJS() as { kind: string; metadata: { name: string }; rules?: Rule[] })
    .filter(({ kind, metadata }) => kind.endsWith("Role") && roles.includes(metadata.name))
    .flatMap(({ rules = [] }) => rules);
}

/** The simulated API server behind HTTP, as a real one speaks it, letting through what the rules of a role allow. */
export class KubeServer {
  readonly sim: SimKube;
  readonly secrets = new Map<string, { data: Record<string, string>; type: string }>();
  /** What was asked and not allowed. */
  readonly forbidden: string[] = [];
  /** A version that is too old is told in the stream, as a real one does once it has begun. */
  goneInStream = false;
  /** Requests are taken and never answered. */
  isSilent = false;
  /** Requests that wait for an answer that does not come, `PATCH /path`. */
  readonly unanswered = new Set<string>();
  readonly #rules: readonly Rule[];
  readonly #server: http.Server;

  constructor(sim: SimKube, rules: readonly Rule[]) {
    this.sim = sim;
    this.#rules = rules;
    this.#server = http.createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => {
        const kind = error instanceof KubeError ? error.kind : "invalid";
        if (kind === "unreachable") return response.destroy();
        const [code, reason] = CODES[kind];
        response.writeHead(code, { "content-type": "application/json" });
        response.end(JSON.stringify({ kind: "Status", code, reason, message: (error as Error).message }));
      });
    });
  }

  async listen(): Promise<KubeHttp> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    const config = new KubeConfig();
    config.loadFromString(this.kubeconfig());
    return new KubeHttp(config);
  }

  /** For those who read one from a file; JSON is YAML. */
  kubeconfig(): string {
    const { port } = this.#server.address() as AddressInfo;
    const cluster = { server: `http://127.0.0.1:${port}`, "insecure-skip-tls-verify": true };
    return JSON.stringify({
      ...{ apiVersion: "v1", kind: "Config", "current-context": "sim" },
      clusters: [{ name: "sim", cluster }],
      users: [{ name: "me", user: { token: "a-token" } }],
      contexts: [{ name: "sim", context: { cluster: "sim", user: "me" } }],
    });
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    if (this.isSilent) {
      const asked = `${request.method} ${request.url}`;
      this.unanswered.add(asked);
      request.socket.once("close", () => this.unanswered.delete(asked));
      return;
    }
    if (request.headers.authorization !== "Bearer a-token")
      throw new KubeError("forbidden", "who is asking?");
    const url = new URL(request.url!, "http://x");
    const asked = askedOf(request.method!, url);
    if (!this.#rules.some((rule) => allows(rule, asked))) {
      this.forbidden.push(`${asked.verb} ${asked.resource} ${asked.name}`);
      throw new KubeError("forbidden", `may not ${asked.verb} ${asked.resource} ${asked.name}`);
    }
    const body = request.method === "GET" ? {} : JSON.parse(await textOf(request));
    if (asked.verb === "watch") return this.#watch(asked.resource as Resource, url, response);
    const answer = await this.#act(asked, url, body, request.headers["content-type"] ?? "");
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(answer ?? {}));
  }

  // biome-ignore lint/suspicious/noExplicitAny: bodies are checked by what becomes of them
  async #act({ resource, name, verb }: Asked, url: URL, body: any, type: string): Promise<unknown> {
    const { sim } = this;
    switch (`${verb} ${resource}`) {
      case "list trainingjobs":
      case "list pods":
      case "list nodes":
        return this.#page(resource as Resource, url);
      case "patch trainingjobs":
      case "patch trainingjobs/status": {
        if (type !== "application/apply-patch+yaml" || url.searchParams.get("force") !== "true")
          throw new KubeError("invalid", `${type} is no forced server-side apply`);
        if (!url.searchParams.get("fieldManager")) throw new KubeError("invalid", "fieldManager is required");
        const job = { name, uid: body.metadata.uid as string };
        return resource.endsWith("status")
          ? sim.applyStatus(job, body.status)
          : sim.applyFinalizers(job, body.metadata.finalizers);
      }
      case "create events":
        return sim.createEvent({
          ...body,
          name: body.metadata.name,
          atMs: Date.parse(body.lastTimestamp),
          about: body.involvedObject,
        });
      case "patch nodes":
        if (type !== "application/merge-patch+json") throw new KubeError("invalid", type);
        return sim.patchNode(
          { name, resourceVersion: body.metadata.resourceVersion },
          { taints: body.spec.taints, annotations: body.metadata.annotations },
        );
      case "create pods/eviction":
        return sim.evict({ name, uid: body.deleteOptions.preconditions.uid });
      case "patch pods":
        return sim.markLeader(name, body.metadata.labels["goku.dev/leader"] === "true");
      case "get secrets": {
        const secret = this.secrets.get(name);
        if (secret === undefined) throw new KubeError("notFound", `no Secret ${name}`);
        return secret;
      }
      case "create secrets":
        if (this.secrets.has(body.metadata.name)) throw new KubeError("exists", "it exists");
        this.secrets.set(body.metadata.name, { data: body.data, type: body.type });
        return body;
      default:
        throw new KubeError("notFound", `${verb} ${resource}`);
    }
  }

  async #page(resource: Resource, url: URL) {
    const { items, resourceVersion } = await this.sim.list(resource, new AbortController().signal);
    const from = Number(url.searchParams.get("continue") ?? 0);
    const next = from + PAGE_ITEMS;
    const more = next < items.length ? { continue: String(next) } : {};
    return { metadata: { resourceVersion, ...more }, items: items.slice(from, next) };
  }

  async #watch(resource: Resource, url: URL, response: http.ServerResponse): Promise<void> {
    const left = new AbortController();
    response.on("close", () => left.abort());
    const start = () => {
      if (!response.headersSent) response.writeHead(200, { "content-type": "application/json" });
    };
    const from = url.searchParams.get("resourceVersion")!;
    try {
      const ended = this.sim.watch(
        resource,
        from,
        (event) => {
          start();
          response.write(`${JSON.stringify(event)}\n`);
        },
        left.signal,
      );
      // A real one answers at once, before there is anything to tell.
      setImmediate(() => {
        if (left.signal.aborted || this.goneInStream) return;
        start();
        response.flushHeaders();
      });
      await ended;
      start();
      response.end();
    } catch (error) {
      if (!this.goneInStream || !(error instanceof KubeError) || error.kind !== "gone") throw error;
      start();
      const status = { kind: "Status", code: 410, reason: "Expired", message: error.message };
      response.end(`${JSON.stringify({ type: "ERROR", object: status })}\n`);
    }
  }
}

function askedOf(method: string, url: URL): Asked {
  const match =
    /^\/(?:api\/v1|apis\/([^/]+)\/[^/]+)(?:\/namespaces\/[^/]+)?\/([a-z]+)(?:\/([^/]+))?(?:\/([a-z]+))?$/.exec(
      url.pathname,
    );
  if (match === null) throw new KubeError("notFound", url.pathname);
  const [, group = "", plural, name = "", sub] = match;
  const reads = name !== "" ? "get" : url.searchParams.get("watch") === "true" ? "watch" : "list";
  const verb = { GET: reads, POST: "create", PATCH: "patch" }[method]!;
  return { group, resource: sub === undefined ? plural! : `${plural}/${sub}`, name, verb };
}

function allows(rule: Rule, { group, resource, name, verb }: Asked): boolean {
  return (
    rule.apiGroups.includes(group) &&
    rule.resources.includes(resource) &&
    rule.verbs.includes(verb) &&
    (rule.resourceNames === undefined || rule.resourceNames.includes(name))
  );
}

async function textOf(request: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
