import assert from "node:assert/strict";
import { test } from "node:test";
import type { ControllerApi } from "../../../controller/api/controller_api.js";
import { restServer } from "../../../controller/api/rest_server.js";
import { EventLog } from "../../../controller/shell/event_log.js";
import {
  Incident,
  IncidentOutcome,
  JobPhase,
  JobStatus,
  NodeStatus,
} from "../../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../../job/errors.js";
import type { Job } from "../../../job/job.js";

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
  const api: ControllerApi = {
    submitJob: async () => {
      throw new GokuError("LAYOUT_INVALID", "Cannot lay out 3 ranks: dp_replicate 1 * dp_shard 2 * sp 2 = 4");
    },
    listJobs: () => [status],
    getJob: (name) => {
      know(name);
      return { status, spec: { name: "shapes" } as Job, history: [{ step: 1n, loss: 2 }] };
    },
    stopJob: async (name) => {
      know(name);
      return { ...status, phase: JobPhase.STOPPING };
    },
    saveJob: async (name) => know(name),
    listNodes: () => [
      NodeStatus.fromPartial({ nodeId: "node-a", connected: true, slots: 2, failureDomain: "rack-1" }),
    ],
    releaseNode: async (nodeId) => {
      if (nodeId !== "node-a") throw new GokuError("NOT_FOUND", `Cannot release node ${nodeId}`);
    },
    listCheckpoints: () => [],
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
    isOver: (name) => {
      know(name);
      return over;
    },
    isReady: () => !over,
  };
  return { api, log, end: () => (over = true) };
}

const metrics = { contentType: "text/plain", render: async () => "goku_nodes_connected 1\n" };

test("REST: jobs, nodes and incidents come as snake_case JSON with plain numbers", async () => {
  const app = await restServer(oneJob().api, metrics, "0.1.0");
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
  assert.equal((await app.inject({ method: "POST", url: "/v1/jobs/shapes/stop" })).statusCode, 202);
  assert.equal((await app.inject({ method: "POST", url: "/v1/nodes/node-a/release" })).statusCode, 200);
  assert.equal((await app.inject("/metrics")).body, "goku_nodes_connected 1\n");
  await app.close();
});

test("REST: errors are problem documents with the catalogue's code", async () => {
  const { api, end } = oneJob();
  const app = await restServer(api, metrics, "0.1.0");
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
  const app = await restServer(oneJob().api, metrics, "0.1.0");
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
  const app = await restServer(oneJob().api, metrics, "0.1.0");
  const document = (await app.inject("/openapi.json")).json();
  assert.equal(document.openapi, "3.1.0");
  for (const path of [
    "/v1/jobs",
    "/v1/jobs/{name}",
    "/v1/jobs/{name}/stop",
    "/v1/jobs/{name}/incidents",
    "/v1/nodes",
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
  const app = await restServer(api, metrics, "0.1.0");
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
