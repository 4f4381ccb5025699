import {
  type AsOf,
  type Checkpoint,
  type Curves,
  type Incident,
  type Job,
  type LogLine,
  type Me,
  type Node,
  type Preview,
  type Problem,
  type Rank,
  type Ranks,
  readAsOf,
} from "./answers.js";

export type * from "./answers.js";

/** Why a request was not answered as asked. `code` is of the error catalogue, or one of these two. */
export class ApiError extends Error {
  constructor(
    readonly code: Problem["code"] | "UNREACHABLE" | "STANDBY",
    message: string,
  ) {
    super(message);
  }

  /** Nothing is answered to whoever shows what this page shows. */
  get isRefusal(): boolean {
    return this.code === "UNAUTHENTICATED" || this.code === "PERMISSION_DENIED";
  }
}

const TOKEN_KEY = "goku.token";

/** For this tab alone, and gone with it. It is never part of an address. */
export function token(): string | null {
  return sessionStorage.getItem(TOKEN_KEY);
}

export function setToken(value: string | null): void {
  if (value === null) sessionStorage.removeItem(TOKEN_KEY);
  else sessionStorage.setItem(TOKEN_KEY, value);
}

/** Any request to the controller that served this page. Throws ApiError where the answer is not one of success. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const bearer = token();
  if (bearer !== null) headers.set("authorization", `Bearer ${bearer}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, redirect: "manual", cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError("UNREACHABLE", "The controller does not answer");
  }
  // A standby points to the leader, which is another site to a browser: only a page of its own may ask it.
  if (response.type === "opaqueredirect") throw new ApiError("STANDBY", "Another controller leads");
  if (response.ok) return response;
  const problem = (await response.json().catch(() => null)) as Problem | null;
  throw new ApiError(problem?.code ?? "INTERNAL", problem?.detail ?? `The answer was ${response.status}`);
}

async function get<T>(path: string): Promise<T> {
  return (await (await ask(path)).json()) as T;
}

const of = (job: string) => `/v1/jobs/${encodeURIComponent(job)}`;

/** Each takes a job's id. */
export const api = {
  me: () => get<Me>("/v1/me"),
  /** With whether they, and so all else that is asked for now, are answered from memory. */
  jobs: async (): Promise<{ jobs: Job[]; asOf: AsOf | null }> => {
    const response = await ask("/v1/jobs");
    const { jobs } = (await response.json()) as { jobs: Job[] };
    return { jobs, asOf: readAsOf(response.headers) };
  },
  nodes: async () => (await get<{ nodes: Node[] }>("/v1/nodes")).nodes,
  curves: (job: string) => get<Curves>(`${of(job)}/curves`),
  ranks: (job: string) => get<Ranks>(`${of(job)}/ranks`),
  rank: (job: string, rank: number) => get<Rank>(`${of(job)}/ranks/${rank}`),
  incidents: async (job: string) => (await get<{ incidents: Incident[] }>(`${of(job)}/incidents`)).incidents,
  checkpoints: async (job: string) =>
    (await get<{ checkpoints: Checkpoint[] }>(`${of(job)}/checkpoints`)).checkpoints,
  logs: async (job: string, rank: number) =>
    (await get<{ lines: LogLine[] }>(`${of(job)}/logs?rank=${rank}&limit=200`)).lines,
  previews: async (job: string) => (await get<{ previews: Preview[] }>(`${of(job)}/previews`)).previews,
  previewFile: async (job: string, step: number, file: string) =>
    await (await ask(`${of(job)}/previews/${step}/${encodeURIComponent(file)}`)).blob(),
  stop: (job: string) => ask(`${of(job)}/stop`, { method: "POST" }),
  save: (job: string) => ask(`${of(job)}/save`, { method: "POST" }),
  drain: (node: string) => ask(`/v1/nodes/${encodeURIComponent(node)}/drain`, { method: "POST" }),
  release: (node: string) => ask(`/v1/nodes/${encodeURIComponent(node)}/release`, { method: "POST" }),
};
