import http from "node:http";
import https from "node:https";
import { KubeConfig } from "@kubernetes/client-node";
import { GokuError } from "../../job/errors.js";
import { KubeError } from "./kube_api.js";

const REQUEST_MS = 10_000;
const NOWHERE = "http://localhost:8080";
export const APPLY = "application/apply-patch+yaml";
export const MERGE = "application/merge-patch+json";

export interface KubeRequest {
  method: "GET" | "POST" | "PATCH";
  path: string;
  query?: Record<string, string>;
  body?: object;
  type?: string;
}

/**
 * Requests to an API server. Credentials, TLS and the addresses of a kubeconfig or a pod are the business of
 * @kubernetes/client-node; requests are ours, since what is asked is little and its typed calls turn times into dates.
 */
export class KubeHttp {
  readonly #config: KubeConfig;
  readonly #closed = new AbortController();

  constructor(config: KubeConfig) {
    this.#config = config;
  }

  /** What is asked is given up, now and later. */
  close(): void {
    this.#closed.abort();
  }

  /**
   * Throws KubeErrors.
   * @param ended when whoever asks wants no answer any more; null: it waits as long as it is waited for at all
   */
  async ask<T>(request: KubeRequest, ended: AbortSignal | null = null): Promise<T> {
    const late = AbortSignal.timeout(REQUEST_MS);
    const closed = this.#closed.signal;
    const signal = AbortSignal.any([closed, late, ...(ended === null ? [] : [ended])]);
    const response = await this.send(request, signal, REQUEST_MS);
    if (response === null)
      throw unreachable(late.aborted ? `no answer in ${REQUEST_MS / 1000} s` : "nobody waits any more");
    const text = await textOf(response);
    const { statusCode = 0 } = response;
    if (statusCode < 200 || statusCode > 299) throw errorOf(statusCode, text);
    try {
      return JSON.parse(text) as T;
    } catch (error) {
      throw unreachable(`the answer to ${request.method} ${request.path} was cut off`, error);
    }
  }

  /** Null: aborted. */
  async send(
    request: KubeRequest,
    signal: AbortSignal,
    silenceMs: number,
  ): Promise<http.IncomingMessage | null> {
    const { method, path, query, body, type = "application/json" } = request;
    const server = this.#config.getCurrentCluster()?.server;
    if (server === undefined) throw unreachable("no cluster is named by the kubeconfig");
    const url = new URL(`${server.replace(/\/$/, "")}${path}`);
    for (const [key, value] of Object.entries(query ?? {})) url.searchParams.set(key, value);
    const options: https.RequestOptions = { method, headers: { accept: "application/json" }, signal };
    try {
      // A program that fetches credentials may hang as well.
      const ready = this.#config.applyToHTTPSOptions(options);
      if (await Promise.race([ready.then(() => false), aborted(signal)])) return null;
    } catch (error) {
      throw unreachable(`its credentials cannot be used: ${(error as Error).message}`, error);
    }
    const text = body === undefined ? null : JSON.stringify(body);
    if (text !== null)
      Object.assign(options.headers as object, {
        "content-type": type,
        "content-length": Buffer.byteLength(text),
      });
    return new Promise((resolve, reject) => {
      const module = url.protocol === "http:" ? http : https;
      // The agent that comes with the credentials is one for TLS.
      const sent = module.request(
        url,
        url.protocol === "http:" ? { ...options, agent: false } : options,
        resolve,
      );
      sent.setTimeout(silenceMs, () =>
        sent.destroy(new Error(`nothing was heard for ${silenceMs / 1000} s`)),
      );
      sent.on("error", (error: Error) =>
        signal.aborted ? resolve(null) : reject(unreachable(error.message, error)),
      );
      sent.end(text ?? undefined);
    });
  }
}

/** The cluster this runs in, or the one of $KUBECONFIG. Throws ARGUMENT_INVALID where none is known. */
export function readKubeConfig(): KubeConfig {
  const config = new KubeConfig();
  if (process.env.KUBERNETES_SERVICE_HOST !== undefined && process.env.KUBECONFIG === undefined)
    config.loadFromCluster();
  else config.loadFromDefault();
  // What the client names where it has found nothing.
  const { server } = config.getCurrentCluster() ?? { server: NOWHERE };
  if (server !== NOWHERE) return config;
  throw new GokuError(
    "ARGUMENT_INVALID",
    "Cannot reach Kubernetes: no cluster is known, neither from inside a pod nor by $KUBECONFIG",
  );
}

function aborted(signal: AbortSignal): Promise<true> {
  if (signal.aborted) return Promise.resolve(true);
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(true), { once: true }));
}

export async function textOf(response: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of response) chunks.push(chunk as Buffer);
  } catch (error) {
    throw unreachable((error as Error).message, error);
  }
  return Buffer.concat(chunks).toString();
}

function unreachable(text: string, cause?: unknown): KubeError {
  return new KubeError("unreachable", `Cannot reach the Kubernetes API: ${text}`, { cause });
}

const KINDS: Readonly<Record<number, KubeError["kind"]>> = {
  400: "invalid",
  401: "forbidden",
  403: "forbidden",
  404: "notFound",
  409: "conflict",
  410: "gone",
  422: "invalid",
  429: "busy",
};

export function errorOf(status: number, text: string): KubeError {
  let message = text.slice(0, 300);
  let reason = "";
  try {
    ({ message = message, reason = "" } = JSON.parse(text) as { message?: string; reason?: string });
  } catch {
    // not the API server itself: a proxy
  }
  const kind = reason === "AlreadyExists" ? "exists" : (KINDS[status] ?? "unreachable");
  return new KubeError(kind, `The Kubernetes API answered ${status}: ${message}`);
}
