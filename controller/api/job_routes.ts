import { z } from "zod";
import { finite } from "../../job/finite.js";
import { STOP_GRACE } from "../../job/stop_grace.js";
import type { ControllerApi } from "./controller_api.js";
import type { Guard } from "./guard.js";
import { checkpointJson, incidentJson, jobJson, logLineJson, previewJson } from "./json.js";
import type { Operations } from "./operations.js";
import { type App, failures } from "./rest_app.js";
import { callerOf } from "./rest_guard.js";
import {
  checkpointSchema,
  incidentSchema,
  jobStatusSchema,
  logLineSchema,
  previewSchema,
} from "./schemas.js";

const params = z.object({ name: z.string().min(1) });

export function addJobRoutes(app: App, api: ControllerApi, operations: Operations, guard: Guard): void {
  addListJobs(app, api);
  addSubmitJob(app, operations);
  addGetJob(app, api);
  addStopJob(app, operations);
  addSaveJob(app, operations);
  addListCheckpoints(app, api);
  addListPreviews(app, api);
  addGetPreviewFile(app, api, guard);
  addListIncidents(app, api);
  addGetLogs(app, api);
}

function addListJobs(app: App, api: ControllerApi): void {
  const schema = {
    summary: "List jobs",
    response: { 200: z.object({ jobs: z.array(jobStatusSchema) }), ...failures },
  };
  app.get("/v1/jobs", { schema, config: { permission: "listJobs" } }, () => ({
    jobs: api.listJobs().map(jobJson),
  }));
}

function addSubmitJob(app: App, operations: Operations): void {
  const schema = {
    summary: "Submit a job (the job file as JSON), optionally from a checkpoint",
    body: z
      .object({ job: z.record(z.string(), z.unknown()), resume_uri: z.string().nullable().default(null) })
      .strict(),
    response: { 201: jobStatusSchema, ...failures },
  };
  app.post("/v1/jobs", { schema, config: { permission: "submitJob" } }, async (request, reply) => {
    const { job, resume_uri } = request.body;
    return reply.code(201).send(jobJson(await operations.submitJob(callerOf(request), job, resume_uri)));
  });
}

function addGetJob(app: App, api: ControllerApi): void {
  const found = z.object({
    job: jobStatusSchema,
    spec: z.record(z.string(), z.unknown()),
    history: z.array(
      z.object({ step: z.number().int(), loss: z.number().nullable().describe("null: not finite") }),
    ),
  });
  const schema = {
    summary: "One job: status, resolved job file, loss of past steps",
    params,
    response: { 200: found, ...failures },
  };
  app.get("/v1/jobs/:name", { schema, config: { permission: "getJob" } }, (request) => {
    const { status, spec, history } = api.getJob(request.params.name);
    return {
      job: jobJson(status),
      spec: spec as unknown as Record<string, unknown>,
      history: history.map((p) => ({ step: Number(p.step), loss: finite(p.loss) })),
    };
  });
}

function addStopJob(app: App, operations: Operations): void {
  const { seconds, secondsMax } = STOP_GRACE;
  const schema = {
    summary: "Save and stop a job; returns at once",
    params,
    querystring: z.object({
      grace_seconds: z
        .string()
        .regex(/^\d{1,9}$/)
        .optional()
        .describe(`the state is to be durable within so long, 0 to ${secondsMax}; left out: ${seconds}`),
    }),
    response: { 202: jobStatusSchema, ...failures },
  };
  app.post("/v1/jobs/:name/stop", { schema, config: { permission: "stopJob" } }, async (request, reply) => {
    const { params, query } = request;
    const grace = query.grace_seconds === undefined ? null : Number(query.grace_seconds);
    const job = await operations.stopJob(callerOf(request), params.name, grace);
    return reply.code(202).send(jobJson(job));
  });
}

function addSaveJob(app: App, operations: Operations): void {
  const schema = {
    summary: "Make the next state durable",
    params,
    response: { 202: z.object({}), ...failures },
  };
  app.post("/v1/jobs/:name/save", { schema, config: { permission: "saveJob" } }, async (request, reply) => {
    await operations.saveJob(callerOf(request), request.params.name);
    return reply.code(202).send({});
  });
}

function addListCheckpoints(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Committed checkpoints of a job",
    params,
    response: { 200: z.object({ checkpoints: z.array(checkpointSchema) }), ...failures },
  };
  app.get("/v1/jobs/:name/checkpoints", { schema, config: { permission: "listCheckpoints" } }, (request) => ({
    checkpoints: api.listCheckpoints(request.params.name).map(checkpointJson),
  }));
}

function addListPreviews(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Previews of a job, drawn while it trains, in the order of their steps",
    params,
    response: { 200: z.object({ previews: z.array(previewSchema) }), ...failures },
  };
  app.get("/v1/jobs/:name/previews", { schema, config: { permission: "listPreviews" } }, async (request) => ({
    previews: (await api.listPreviews(request.params.name)).map(previewJson),
  }));
}

const MEDIA_TYPES: Readonly<Record<string, string>> = { png: "image/png", mp4: "video/mp4" };

function addGetPreviewFile(app: App, api: ControllerApi, guard: Guard): void {
  const schema = {
    summary: "One file of a preview: a PNG sheet or picture, or an MP4 clip",
    params: params.extend({
      step: z.coerce.number().int().min(0),
      file: z.string().regex(/^[a-z0-9][a-z0-9.-]{0,63}$/),
    }),
    response: { 200: z.any().describe("the bytes of the file"), ...failures },
  };
  app.get(
    "/v1/jobs/:name/previews/:step/:file",
    { schema, config: { permission: "getPreviewFile" } },
    async (request, reply) => {
      const { name, step, file } = request.params;
      const closed = guard.openFile(callerOf(request));
      reply.raw.once("close", closed); // it has been read, or nobody reads it any more
      const { buffer, byteOffset, byteLength } = await api.previewFile(name, { step, name: file });
      const type = MEDIA_TYPES[file.slice(file.lastIndexOf(".") + 1)] ?? "application/octet-stream";
      const bytes = Buffer.from(buffer, byteOffset, byteLength);
      return reply.type(type).header("x-content-type-options", "nosniff").send(bytes);
    },
  );
}

function addListIncidents(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Incidents of a job, oldest first: what happened, who saw it, what was decided",
    params,
    response: { 200: z.object({ incidents: z.array(incidentSchema) }), ...failures },
  };
  app.get("/v1/jobs/:name/incidents", { schema, config: { permission: "listIncidents" } }, (request) => ({
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
  app.get(
    "/v1/jobs/:name/logs",
    { schema, config: { permission: "getLogs" } },
    ({ params: { name }, query: { rank, limit } }) => ({
      lines: api.logs(name, rank ?? null, limit).map(logLineJson),
    }),
  );
}
