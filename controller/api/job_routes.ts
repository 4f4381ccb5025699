import { z } from "zod";
import type { ControllerApi } from "./controller_api.js";
import { checkpointJson, incidentJson, jobJson, logLineJson } from "./json.js";
import { type App, failures } from "./rest_app.js";
import { checkpointSchema, incidentSchema, jobStatusSchema, logLineSchema } from "./schemas.js";

const params = z.object({ name: z.string().min(1) });

export function addJobRoutes(app: App, api: ControllerApi): void {
  addListJobs(app, api);
  addSubmitJob(app, api);
  addGetJob(app, api);
  addStopJob(app, api);
  addSaveJob(app, api);
  addListCheckpoints(app, api);
  addListIncidents(app, api);
  addGetLogs(app, api);
}

function addListJobs(app: App, api: ControllerApi): void {
  const schema = {
    summary: "List jobs",
    response: { 200: z.object({ jobs: z.array(jobStatusSchema) }), ...failures },
  };
  app.get("/v1/jobs", { schema }, () => ({ jobs: api.listJobs().map(jobJson) }));
}

function addSubmitJob(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Submit a job (the job file as JSON), optionally from a checkpoint",
    body: z
      .object({ job: z.record(z.string(), z.unknown()), resume_uri: z.string().nullable().default(null) })
      .strict(),
    response: { 201: jobStatusSchema, ...failures },
  };
  app.post("/v1/jobs", { schema }, async ({ body }, reply) =>
    reply.code(201).send(jobJson(await api.submitJob(body.job, body.resume_uri))),
  );
}

function addGetJob(app: App, api: ControllerApi): void {
  const found = z.object({
    job: jobStatusSchema,
    spec: z.record(z.string(), z.unknown()),
    history: z.array(z.object({ step: z.number().int(), loss: z.number() })),
  });
  const schema = {
    summary: "One job: status, resolved job file, loss of past steps",
    params,
    response: { 200: found, ...failures },
  };
  app.get("/v1/jobs/:name", { schema }, (request) => {
    const { status, spec, history } = api.getJob(request.params.name);
    return {
      job: jobJson(status),
      spec: spec as unknown as Record<string, unknown>,
      history: history.map((p) => ({ step: Number(p.step), loss: p.loss })),
    };
  });
}

function addStopJob(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Save and stop a job; returns at once",
    params,
    response: { 202: jobStatusSchema, ...failures },
  };
  app.post("/v1/jobs/:name/stop", { schema }, async (request, reply) =>
    reply.code(202).send(jobJson(await api.stopJob(request.params.name))),
  );
}

function addSaveJob(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Make the next state durable",
    params,
    response: { 202: z.object({}), ...failures },
  };
  app.post("/v1/jobs/:name/save", { schema }, async (request, reply) => {
    await api.saveJob(request.params.name);
    return reply.code(202).send({});
  });
}

function addListCheckpoints(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Committed checkpoints of a job",
    params,
    response: { 200: z.object({ checkpoints: z.array(checkpointSchema) }), ...failures },
  };
  app.get("/v1/jobs/:name/checkpoints", { schema }, (request) => ({
    checkpoints: api.listCheckpoints(request.params.name).map(checkpointJson),
  }));
}

function addListIncidents(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Incidents of a job, oldest first: what happened, who saw it, what was decided",
    params,
    response: { 200: z.object({ incidents: z.array(incidentSchema) }), ...failures },
  };
  app.get("/v1/jobs/:name/incidents", { schema }, (request) => ({
    incidents: api.listIncidents(request.params.name).map(incidentJson),
  }));
}

function addGetLogs(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Last lines the ranks wrote",
    params,
    querystring: z.object({
      rank: z.coerce.number().int().min(0).optional(),
      limit: z.coerce.number().int().min(1).max(10_000).default(200),
    }),
    response: { 200: z.object({ lines: z.array(logLineSchema) }), ...failures },
  };
  app.get("/v1/jobs/:name/logs", { schema }, ({ params: { name }, query: { rank, limit } }) => ({
    lines: api.logs(name, rank ?? null, limit).map(logLineJson),
  }));
}
