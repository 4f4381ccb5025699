import assert from "node:assert/strict";
import { test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import type { AsOf } from "../../../controller/api/as_of.js";
import type { ControllerApi } from "../../../controller/api/controller_api.js";
import { NotLeaderError } from "../../../controller/api/not_leader_error.js";
import { Operations } from "../../../controller/api/operations.js";
import type { PageFile } from "../../../controller/api/page_routes.js";
import { restServer } from "../../../controller/api/rest_server.js";
import { EventLog } from "../../../controller/shell/event_log.js";
import { TrainingHistory } from "../../../controller/shell/training_history.js";
import { RankProgress, StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import {
  Diagnosis,
  Incident,
  IncidentOutcome,
  JobPhase,
  JobStatus,
  NodeStatus,
  Preview,
} from "../../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../../job/errors.js";
import type { Job } from "../../../job/job.js";
import { testGuard } from "../../support/guards.js";

/** An API of one job, so that the translation alone is under test. */
function oneJob() {
  const log = new EventLog(0);
  const status = JobStatus.fromPartial({
    name: "shapes",
    phase: JobPhase.RUNNING,
    step: 7n,
    stepsTotal: 10n,
    loss: 0.5,
    protection: "replicas: 4 ranks keep a copy on another node",
    replicatedStep: 5n,
  });
  const know = (name: string) => {
    if (name !== "shapes" && name !== "")
      throw new GokuError("NOT_FOUND", `Cannot find job "${name}": 1 job is known`);
  };
  let over = false;
  const others = new Set<(error: NotLeaderError) => void>();
  const api: ControllerApi = {
    submitJob: async () => {
      throw new GokuError("LAYOUT_INVALID", "Cannot lay out 3 ranks: dp_replicate 1 * dp_shard 2 * sp 2 = 4");
    },
    listJobs: () => [status],
    getJob: (name) => {
      know(name);
      return { status, spec: { name: "shapes" } as Job, history: [{ step: 1n, loss: 2 }] };
    },
    curves: (name) => {
      know(name);
      const history = new TrainingHistory();
      history.add(
        StepCompleted.fromPartial({ step: 1n, loss: Number.NaN, tokens: 3n, applied: false }),
        5_000,
      );
      return history.curves();
    },
    ranks: (name) => {
      know(name);
      return {
        generation: 2,
        layout: { dp_replicate: 1, dp_shard: 2, sp: 1 },
        nodes: ["node-a"],
        nodeOf: [0, 0],
        health: ["training", "slow"],
        step: [7, null],
        slowness: [1.00049, 1.5],
      };
    },
    rank: (_name, rank) => {
      if (rank > 1) throw new GokuError("NOT_FOUND", `Cannot show rank ${rank}: it has ranks 0 to 1`);
      return {
        rank,
        nodeId: "node-a",
        host: "10.0.0.1",
        device: "cpu",
        failureDomain: "rack-1",
        connected: true,
        silentMs: 1_500,
        health: "training",
        slowness: null,
        progress: RankProgress.fromPartial({ step: 7n, collectiveEntered: 3n, collectiveCompleted: 2n }),
      };
    },
    stopJob: async (name, graceSeconds) => {
      know(name);
      return { ...status, phase: JobPhase.STOPPING, reason: `grace ${graceSeconds}` };
    },
    saveJob: async (name) => know(name),
    listNodes: () => [
      NodeStatus.fromPartial({ nodeId: "node-a", connected: true, slots: 2, failureDomain: "rack-1" }),
    ],
    metricsTargets: () => [
      { node: "node-a", url: "http://127.0.0.1:9101/metrics" },
      { node: "node-b", url: "https://[fd00::2]:443/metrics" },
    ],
    releaseNode: async (nodeId) => {
      if (nodeId !== "node-a") throw new GokuError("NOT_FOUND", `Cannot release node ${nodeId}`);
    },
    drainNode: async (nodeId) => {
      if (nodeId !== "node-a") throw new GokuError("NOT_FOUND", `Cannot drain node ${nodeId}`);
    },
    diagnose: async (nodeIds) =>
      Diagnosis.fromPartial({ id: 3n, nodes: nodeIds.map((nodeId) => ({ nodeId, verdict: "running" })) }),
    diagnosis: () =>
      Diagnosis.fromPartial({
        id: 3n,
        done: true,
        nodes: [
          {
            nodeId: "node-a",
            verdict: "failed",
            reason: "memory failed: bits differ",
            checks: [{ result: { name: "memory", ok: false, unit: "MiB" }, verdict: "failed" }],
          },
        ],
      }),
    listCheckpoints: () => [],
    listPreviews: async (name) => {
      know(name);
      return [
        Preview.fromPartial({
          state: { generation: 2n, step: 4n },
          prompts: ["a red circle"],
          seed: 1n,
          files: [{ name: "g2-sheet.png", bytes: 3n }],
          drawnAt: new Date(0),
        }),
      ];
    },
    previewFile: async (_name, { step, name }) => {
      if (step !== 4 || name !== "g2-sheet.png") throw new GokuError("NOT_FOUND", `Cannot find ${name}`);
      return Uint8Array.of(1, 2, 3);
    },
    listIncidents: () => [
      Incident.fromPartial({
        id: 1n,
        job: "shapes",
        rank: 0,
        what: "rank 0 ended",
        generationBefore: 1n,
        outcome: IncidentOutcome.FAILED,
      }),
    ],
    logs: () => [],
    pastEvents: (job, after) => log.past(job, after),
    onEvent: (callback) => log.listen(callback),
    requireKnowledge: () => {},
    asOf: () => null,
    onOtherLeads: (callback) => {
      others.add(callback);
      return () => void others.delete(callback);
    },
    isOver: (name) => {
      know(name);
      return over;
    },
    isReady: () => !over,
    standing: () => "another controller leads",
  };
  const otherLeads = (error: NotLeaderError) => {
    for (const callback of others) callback(error);
  };
  return { api, log, end: () => (over = true), otherLeads };
}

const metrics = { contentType: "text/plain", render: async () => "goku_nodes_connected 1\n" };

function pageFile(text: string, isNamedByContent: boolean): PageFile {
  const body = Buffer.from(text);
  return { type: "text/html", body, gzipped: gzipSync(body), etag: `"${text.length}"`, isNamedByContent };
}
const PAGE = new Map([
  ["/", pageFile("<!doctype html>", false)],
  ["/assets/page-ABC.js", pageFile("start()", true)],
]);

/** A server that asks nobody who he is. */
function openServer(api: ControllerApi) {
  const operations = new Operations(api, () => {});
  const { guard } = testGuard();
  return restServer({
    page: PAGE,
    api,
    operations,
    guard,
    metrics,
    version: "0.1.0",
    cluster: "lab",
    tls: null,
  });
}

test("REST: previews are listed, and their files come as what they are, under listed names alone", async () => {
  const app = await openServer(oneJob().api);
  const { previews } = (await app.inject("/v1/jobs/shapes/previews")).json();
  assert.deepEqual(
    { step: previews[0].step, seed: previews[0].seed, files: previews[0].files, at: previews[0].drawn_at },
    { step: 4, seed: 1, files: [{ name: "g2-sheet.png", bytes: 3 }], at: "1970-01-01T00:00:00.000Z" },
  );
  const file = await app.inject("/v1/jobs/shapes/previews/4/g2-sheet.png");
  assert.equal(file.statusCode, 200);
  assert.equal(file.headers["content-type"], "image/png");
  assert.deepEqual([...file.rawPayload], [1, 2, 3]);
  const statusOf = async (path: string) => (await app.inject(`/v1/jobs/shapes/previews/${path}`)).statusCode;
  assert.equal(await statusOf("4/g3-sheet.png"), 404);
  for (const path of ["4/..%2f..%2fmanifest.json", "4/.hidden", "four/g2-sheet.png", "-1/g2-sheet.png"])
    assert.equal(await statusOf(path), 400, path);
  await app.close();
});

test("REST: so many files of previews are held at once and no more; each makes room when it has been read", async () => {
  const { api } = oneJob();
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  const previewFile: ControllerApi["previewFile"] = async (...of) => {
    await held;
    return api.previewFile(...of);
  };
  const server = await openServer({ ...api, previewFile });
  const fetchOne = async () => await server.inject("/v1/jobs/shapes/previews/4/g2-sheet.png");
  const first = Array.from({ length: 16 }, fetchOne);
  const refused = await fetchOne();
  assert.deepEqual([refused.statusCode, refused.json().code], [429, "RATE_LIMITED"]);
  release();
  for (const { statusCode } of await Promise.all(first)) assert.equal(statusCode, 200);
  assert.equal((await fetchOne()).statusCode, 200);
  await server.close();
});

test("REST: jobs, nodes and incidents come as snake_case JSON with plain numbers", async () => {
  const app = await openServer(oneJob().api);
  const jobs = (await app.inject("/v1/jobs")).json();
  assert.deepEqual(
    { phase: jobs.jobs[0].phase, step: jobs.jobs[0].step, eta: jobs.jobs[0].eta_seconds },
    { phase: "RUNNING", step: 7, eta: null },
  );
  assert.equal(jobs.jobs[0].protection, "replicas: 4 ranks keep a copy on another node");
  assert.equal(jobs.jobs[0].replicated_step, 5);
  const job = (await app.inject("/v1/jobs/shapes")).json();
  assert.deepEqual(job.history, [{ step: 1, loss: 2 }]);
  const [node] = (await app.inject("/v1/nodes")).json().nodes;
  assert.deepEqual([node.node_id, node.failure_domain], ["node-a", "rack-1"]);
  const incident = (await app.inject("/v1/jobs/shapes/incidents")).json().incidents[0];
  assert.equal(incident.rank, 0);
  assert.deepEqual(
    [incident.generation_after, incident.steps_lost, incident.outcome],
    [null, null, "FAILED"],
  );
  const stop = (query: string) => app.inject({ method: "POST", url: `/v1/jobs/shapes/stop${query}` });
  assert.equal((await stop("")).statusCode, 202);
  assert.equal((await stop("?grace_seconds=0")).json().reason, "grace 0");
  for (const wrong of ["", "-1", "1.5", "1e3", "x", "86401"])
    assert.equal((await stop(`?grace_seconds=${wrong}`)).statusCode, 400, wrong);
  assert.equal((await app.inject({ method: "POST", url: "/v1/nodes/node-a/release" })).statusCode, 200);
  assert.equal((await app.inject("/metrics")).body, "goku_nodes_connected 1\n");
  await app.close();
});

test("REST: ranks and curves come in columns, a rank with what it does", async () => {
  const app = await openServer(oneJob().api);
  const ranks = (await app.inject("/v1/jobs/shapes/ranks")).json();
  assert.deepEqual(
    [ranks.nodes, ranks.node, ranks.health, ranks.step, ranks.slowness],
    [["node-a"], [0, 0], ["training", "slow"], [7, null], [1, 1.5]],
  );
  const rank = (await app.inject("/v1/jobs/shapes/ranks/1")).json();
  assert.deepEqual(
    [rank.node_id, rank.silent_seconds, rank.progress.step, rank.progress.in_flight],
    ["node-a", 1.5, 7, true],
  );
  assert.equal((await app.inject("/v1/jobs/shapes/ranks/2")).json().code, "NOT_FOUND");
  const curves = (await app.inject("/v1/jobs/shapes/curves")).json();
  assert.deepEqual(
    [curves.step, curves.loss, curves.tokens, curves.voted_down, curves.time],
    [[1], [null], [3], [1], ["1970-01-01T00:00:05.000Z"]],
  );
  assert.equal((await app.inject({ method: "POST", url: "/v1/nodes/node-a/drain" })).statusCode, 202);
  assert.equal((await app.inject({ method: "POST", url: "/v1/nodes/node-z/drain" })).statusCode, 404);
  await app.close();
});

test("REST: the page is served with a strict policy, and kept by browsers as long as its content is the same", async () => {
  const app = await openServer(oneJob().api);
  const first = await app.inject({ url: "/", headers: { "accept-encoding": "gzip" } });
  assert.equal(gunzipSync(first.rawPayload).toString(), "<!doctype html>");
  assert.equal(first.headers["cache-control"], "no-cache");
  const policy = String(first.headers["content-security-policy"]);
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|https?:|\*/);
  const again = await app.inject({ url: "/", headers: { "if-none-match": String(first.headers.etag) } });
  assert.deepEqual([again.statusCode, again.body], [304, ""]);
  const script = await app.inject("/assets/page-ABC.js");
  assert.equal(script.body, "start()");
  assert.match(String(script.headers["cache-control"]), /immutable/);
  for (const url of ["/assets/page-OLD.js", "/assets/..%2f..%2fpackage.json", "/assets/../index.html"])
    assert.equal((await app.inject(url)).statusCode, 404, url);
  const unbuilt = await restServer({
    ...{ api: oneJob().api, operations: new Operations(oneJob().api, () => {}), guard: testGuard().guard },
    ...{ metrics, version: "0.1.0", cluster: "lab", page: new Map(), tls: null },
  });
  assert.match((await unbuilt.inject("/")).json().detail, /not built, run scripts\/build.sh/);
  await Promise.all([app.close(), unbuilt.close()]);
});

test("REST: a diagnosis is asked for, and looked at until it is done", async () => {
  const app = await openServer(oneJob().api);
  const asked = await app.inject({ method: "POST", url: "/v1/diagnose", payload: { nodes: ["node-a"] } });
  assert.equal(asked.statusCode, 202);
  assert.deepEqual(
    [asked.json().done, asked.json().nodes[0].node_id, asked.json().nodes[0].verdict],
    [false, "node-a", "running"],
  );
  const found = (await app.inject("/v1/diagnose")).json();
  assert.deepEqual(
    [found.done, found.nodes[0].reason, found.nodes[0].checks[0].verdict, found.nodes[0].checks[0].median],
    [true, "memory failed: bits differ", "failed", null],
  );
  const wrong = await app.inject({ method: "POST", url: "/v1/diagnose", payload: { node: "node-a" } });
  assert.equal(wrong.json().code, "ARGUMENT_INVALID");
  await app.close();
});

test("REST: a loss that is not finite is null, wherever it stands", async () => {
  const { api } = oneJob();
  const { status, spec } = api.getJob("shapes");
  const bad = { ...status, loss: Number.NaN, gradNorm: Number.POSITIVE_INFINITY };
  const history = [{ step: 1n, loss: Number.NaN }];
  const app = await openServer({
    ...api,
    listJobs: () => [bad],
    getJob: () => ({ status: bad, spec, history }),
  });
  const { jobs } = (await app.inject("/v1/jobs")).json();
  assert.deepEqual([jobs[0].loss, jobs[0].grad_norm], [null, null]);
  const job = (await app.inject("/v1/jobs/shapes")).json();
  assert.deepEqual([job.job.loss, job.history], [null, [{ step: 1, loss: null }]]);
  await app.close();
});

test("REST: errors are problem documents with the catalogue's code", async () => {
  const { api, end } = oneJob();
  const app = await openServer(api);
  const cases: [string, string, object | undefined, number, string][] = [
    ["GET", "/v1/jobs/nothing", undefined, 404, "NOT_FOUND"],
    ["GET", "/v2/jobs", undefined, 404, "NOT_FOUND"],
    ["GET", "/v1/events?job=nothing", undefined, 404, "NOT_FOUND"],
    ["GET", "/v1/events?job=nothing&follow=false", undefined, 404, "NOT_FOUND"],
    ["POST", "/v1/nodes/node-z/release", undefined, 404, "NOT_FOUND"],
    ["POST", "/v1/jobs", { job: { name: "x" } }, 400, "LAYOUT_INVALID"],
    ["POST", "/v1/jobs", { jab: 1 }, 400, "ARGUMENT_INVALID"],
    ["GET", "/v1/jobs/shapes/logs?limit=-1", undefined, 400, "ARGUMENT_INVALID"],
  ];
  for (const [method, url, payload, status, code] of cases) {
    const response = await app.inject({ method: method as "GET", url, ...(payload ? { payload } : {}) });
    assert.equal(response.statusCode, status, `${method} ${url}: ${response.body}`);
    assert.equal(response.json().code, code);
    assert.match(response.headers["content-type"] as string, /application\/problem\+json/);
  }
  assert.equal((await app.inject("/readyz")).statusCode, 200);
  end();
  assert.equal((await app.inject("/readyz")).statusCode, 503);
  await app.close();
});

test("REST: a body larger than the limit is refused before it is parsed", async () => {
  const app = await openServer(oneJob().api);
  const response = await app.inject({
    method: "POST",
    url: "/v1/jobs",
    payload: { job: { name: "x".repeat(300_000) } },
  });
  assert.equal(response.statusCode, 400);
  assert.equal(response.json().code, "ARGUMENT_INVALID");
  await app.close();
});

test("REST: the OpenAPI document names every path and dangles no reference", async () => {
  const app = await openServer(oneJob().api);
  const document = (await app.inject("/openapi.json")).json();
  assert.equal(document.openapi, "3.1.0");
  for (const path of [
    "/v1/jobs",
    "/v1/jobs/{name}",
    "/v1/jobs/{name}/stop",
    "/v1/jobs/{name}/incidents",
    "/v1/nodes",
    "/v1/prometheus/targets",
    "/v1/diagnose",
    "/v1/events",
    "/readyz",
  ]) {
    assert.ok(document.paths[path], `${path} is missing`);
  }
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g)].map(
    (m) => m[1]!,
  );
  assert.ok(references.length > 0);
  assert.deepEqual(
    references.filter((name) => !document.components.schemas[name]),
    [],
  );
  await app.close();
});

test("REST: the event stream resumes after the last id a reader saw and ends with the job", async () => {
  const { api, log, end } = oneJob();
  const app = await openServer(api);
  for (let i = 1; i <= 3; i++) log.add({ timeMs: i, job: "shapes", kind: "phase", message: `event ${i}` });
  log.add({ timeMs: 4, job: "other", kind: "phase", message: "not ours" });
  const second = log.past("shapes", 0n)[1]!;
  const pending = app.inject({
    url: "/v1/events?job=shapes",
    headers: { "last-event-id": String(second.id) },
  });
  setImmediate(() => {
    end();
    log.add({ timeMs: 5, job: "shapes", kind: "phase", message: "event 4" });
  });
  const body = (await pending).body;
  const messages = [...body.matchAll(/^data: (.*)$/gm)].map((m) => JSON.parse(m[1]!).message);
  assert.deepEqual(messages, ["event 3", "event 4"]);
  await app.close();
});

/** An API of a controller that waits for another one; `rest`: where that one is, as far as known. */
function standby(rest: string | null): ControllerApi {
  const refuse = () => {
    const leader = rest === null ? null : { grpc: "a.example:7070", rest };
    throw new NotLeaderError("Cannot answer: another controller leads", leader);
  };
  const { api } = oneJob();
  return { ...api, listJobs: refuse, stopJob: refuse, requireKnowledge: refuse, isReady: () => false };
}

test("REST: a standby sends callers to the leader, event streams and changes too; probes it answers itself", async () => {
  const app = await openServer(standby("http://a.example:7080"));
  const asked = [
    ["GET", "/"],
    ["GET", "/v1/jobs"],
    ["GET", "/v1/events?job=shapes&after=7"],
    ["POST", "/v1/jobs/shapes/stop"],
  ] as const;
  for (const [method, url] of asked) {
    const response = await app.inject({ method, url });
    assert.equal(response.statusCode, 307, url);
    assert.equal(response.headers.location, `http://a.example:7080${url}`);
    assert.match(response.headers["content-type"] as string, /application\/problem\+json/);
    const { code, status, leader } = response.json();
    assert.deepEqual([code, status, leader], ["NOT_LEADER", 307, "http://a.example:7080"]);
  }
  const ready = await app.inject("/readyz");
  assert.deepEqual([ready.statusCode, ready.headers.location], [503, undefined]);
  assert.equal((await app.inject("/healthz")).statusCode, 200);
  assert.equal((await app.inject("/metrics")).statusCode, 200);
  await app.close();
});

test("REST: what is answered from memory bears its time, event streams too; probes and the leader's answers do not", async () => {
  const { api } = oneJob();
  let asOf: AsOf | null = { atMs: Date.UTC(2026, 0, 2), storeSilentMs: Date.UTC(2026, 0, 1) };
  const app = await openServer({ ...api, asOf: () => asOf });
  const marks = async (url: string) => {
    const { statusCode, headers } = await app.inject(url);
    return [statusCode, headers["goku-as-of"], headers["goku-store-silent-since"]];
  };
  const marked = [200, "2026-01-02T00:00:00.000Z", "2026-01-01T00:00:00.000Z"];
  assert.deepEqual(await marks("/v1/jobs"), marked);
  assert.deepEqual(await marks("/v1/events?follow=false"), marked);
  assert.deepEqual(await marks("/healthz"), [200, undefined, undefined]);
  asOf = null;
  assert.deepEqual(await marks("/v1/jobs"), [200, undefined, undefined]);
  await app.close();
});

test("REST: a standby that knows no leader asks callers to come again", async () => {
  const app = await openServer(standby(null));
  assert.equal((await app.inject("/")).statusCode, 200, "the page tries again by itself");
  const response = await app.inject("/v1/jobs");
  assert.equal(response.statusCode, 503);
  assert.deepEqual([response.headers["retry-after"], response.headers.location], ["1", undefined]);
  assert.deepEqual([response.json().code, response.json().leader], ["NOT_LEADER", undefined]);
  await app.close();
});

test("REST: an event stream ends when another controller leads, which alone has news from then on", async () => {
  const { api, log, otherLeads } = oneJob();
  const app = await openServer(api);
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  log.add({ timeMs: 1, job: "shapes", kind: "phase", message: "the last of this one" });
  const response = await fetch(`${url}/v1/events?job=shapes`);
  const reader = response.body!.getReader();
  let text = "";
  while (!text.includes("the last of this one"))
    text += new TextDecoder().decode((await reader.read()).value);
  otherLeads(new NotLeaderError("Cannot go on: another controller leads", null));
  await assert.rejects(async () => {
    while (!(await reader.read()).done);
  }, "the reader connects anew, with the id of the last event");
  await app.close();
});

test("REST: Prometheus is handed the agents' addresses, with their scheme, cluster and node", async () => {
  const app = await openServer(oneJob().api);
  const response = await app.inject("/v1/prometheus/targets");
  assert.equal(response.statusCode, 200);
  assert.match(response.headers["content-type"] as string, /^application\/json/); // or Prometheus refuses it
  assert.deepEqual(response.json(), [
    { targets: ["127.0.0.1:9101"], labels: { __scheme__: "http", cluster: "lab", node: "node-a" } },
    { targets: ["[fd00::2]:443"], labels: { __scheme__: "https", cluster: "lab", node: "node-b" } },
  ]);
});
