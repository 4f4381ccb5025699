import swagger from "@fastify/swagger";
import Fastify, { type FastifyInstance } from "fastify";
import {
  jsonSchemaTransform,
  jsonSchemaTransformObject,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from "fastify-type-provider-zod";
import { z } from "zod";
import { ERRORS, type ErrorCode, GokuError, toGokuError } from "../../job/errors.js";
import type { ControllerApi } from "./controller_api.js";
import { followEvents } from "./follow_events.js";
import { checkpointJson, eventJson, incidentJson, jobJson, logLineJson, nodeJson } from "./json.js";
import {
  checkpointSchema,
  eventSchema,
  incidentSchema,
  jobStatusSchema,
  logLineSchema,
  nodeSchema,
  problemSchema,
} from "./schemas.js";

/** HTTP status of each gRPC status in the catalogue. */
const HTTP_STATUS: Record<(typeof ERRORS)[ErrorCode]["grpc"], number> = {
  INVALID_ARGUMENT: 400,
  NOT_FOUND: 404,
  ALREADY_EXISTS: 409,
  FAILED_PRECONDITION: 409,
  ABORTED: 409,
  RESOURCE_EXHAUSTED: 507,
  DATA_LOSS: 500,
  INTERNAL: 500,
  UNAVAILABLE: 503,
  DEADLINE_EXCEEDED: 504,
};
/** A job file is a few kilobytes; more than this is refused before it is parsed. */
const BODY_BYTES_MAX = 256 * 1024;

/** The REST face of the API: translation only. `metrics` renders the Prometheus text. */
export async function restServer(
  api: ControllerApi,
  metrics: { contentType: string; render(): Promise<string> },
  version: string,
): Promise<FastifyInstance> {
  const app = Fastify({
    bodyLimit: BODY_BYTES_MAX,
    forceCloseConnections: true,
  }).withTypeProvider<ZodTypeProvider>();
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.setErrorHandler((error, _request, reply) => {
    const validation = (error as { validation?: unknown; statusCode?: number }).validation;
    const clientFault =
      validation !== undefined || ((error as { statusCode?: number }).statusCode ?? 500) < 500;
    const known =
      error instanceof GokuError
        ? error
        : clientFault
          ? new GokuError("ARGUMENT_INVALID", (error as Error).message)
          : toGokuError(error);
    void reply
      .code(HTTP_STATUS[ERRORS[known.code].grpc])
      .type("application/problem+json")
      .send(problem(known));
  });
  app.setNotFoundHandler((request, reply) => {
    const missing = new GokuError(
      "NOT_FOUND",
      `Cannot answer ${request.method} ${request.url}: no such path; see /openapi.json`,
    );
    void reply.code(404).type("application/problem+json").send(problem(missing));
  });
  await app.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Goku Cluster",
        version,
        description: "Jobs, nodes, incidents and checkpoints of a controller",
      },
    },
    transform: jsonSchemaTransform,
    transformObject: jsonSchemaTransformObject,
  });
  // Inside a plugin, so that every route is declared after swagger listens for them.
  await app.register((routes, _options, done) => {
    addJobRoutes(routes as unknown as App, api);
    addClusterRoutes(routes as unknown as App, api);
    addServiceRoutes(routes as unknown as App, api, metrics);
    done();
  });
  app.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
  await app.ready();
  return app as unknown as FastifyInstance;
}

type App = FastifyInstance<
  import("fastify").RawServerDefault,
  import("node:http").IncomingMessage,
  import("node:http").ServerResponse,
  import("fastify").FastifyBaseLogger,
  ZodTypeProvider
>;

const nameParams = z.object({ name: z.string().min(1) });
const failures = { "4xx": problemSchema, "5xx": problemSchema };

function addJobRoutes(app: App, api: ControllerApi): void {
  app.get(
    "/v1/jobs",
    {
      schema: {
        summary: "List jobs",
        response: { 200: z.object({ jobs: z.array(jobStatusSchema) }), ...failures },
      },
    },
    () => ({
      jobs: api.listJobs().map(jobJson),
    }),
  );
  app.post(
    "/v1/jobs",
    {
      schema: {
        summary: "Submit a job (the job file as JSON), optionally from a checkpoint",
        body: z
          .object({ job: z.record(z.string(), z.unknown()), resume_uri: z.string().nullable().default(null) })
          .strict(),
        response: { 201: jobStatusSchema, ...failures },
      },
    },
    async (request, reply) =>
      reply.code(201).send(jobJson(await api.submitJob(request.body.job, request.body.resume_uri))),
  );
  app.get(
    "/v1/jobs/:name",
    {
      schema: {
        summary: "One job: status, resolved job file, loss of past steps",
        params: nameParams,
        response: {
          200: z.object({
            job: jobStatusSchema,
            spec: z.record(z.string(), z.unknown()),
            history: z.array(z.object({ step: z.number().int(), loss: z.number() })),
          }),
          ...failures,
        },
      },
    },
    (request) => {
      const { status, spec, history } = api.getJob(request.params.name);
      return {
        job: jobJson(status),
        spec: spec as unknown as Record<string, unknown>,
        history: history.map((p) => ({ step: Number(p.step), loss: p.loss })),
      };
    },
  );
  app.post(
    "/v1/jobs/:name/stop",
    {
      schema: {
        summary: "Save and stop a job; returns at once",
        params: nameParams,
        response: { 202: jobStatusSchema, ...failures },
      },
    },
    async (request, reply) => reply.code(202).send(jobJson(await api.stopJob(request.params.name))),
  );
  app.post(
    "/v1/jobs/:name/save",
    {
      schema: {
        summary: "Make the next state durable",
        params: nameParams,
        response: { 202: z.object({}), ...failures },
      },
    },
    async (request, reply) => {
      await api.saveJob(request.params.name);
      return reply.code(202).send({});
    },
  );
  app.get(
    "/v1/jobs/:name/checkpoints",
    {
      schema: {
        summary: "Committed checkpoints of a job",
        params: nameParams,
        response: { 200: z.object({ checkpoints: z.array(checkpointSchema) }), ...failures },
      },
    },
    (request) => ({ checkpoints: api.listCheckpoints(request.params.name).map(checkpointJson) }),
  );
  app.get(
    "/v1/jobs/:name/incidents",
    {
      schema: {
        summary: "Incidents of a job, oldest first: what happened, who saw it, what was decided",
        params: nameParams,
        response: { 200: z.object({ incidents: z.array(incidentSchema) }), ...failures },
      },
    },
    (request) => ({ incidents: api.listIncidents(request.params.name).map(incidentJson) }),
  );
  app.get(
    "/v1/jobs/:name/logs",
    {
      schema: {
        summary: "Last lines the ranks wrote",
        params: nameParams,
        querystring: z.object({
          rank: z.coerce.number().int().min(0).optional(),
          limit: z.coerce.number().int().min(1).max(10_000).default(200),
        }),
        response: { 200: z.object({ lines: z.array(logLineSchema) }), ...failures },
      },
    },
    (request) => ({
      lines: api.logs(request.params.name, request.query.rank ?? null, request.query.limit).map(logLineJson),
    }),
  );
}

function addClusterRoutes(app: App, api: ControllerApi): void {
  app.get(
    "/v1/nodes",
    {
      schema: {
        summary: "List nodes",
        response: { 200: z.object({ nodes: z.array(nodeSchema) }), ...failures },
      },
    },
    () => ({
      nodes: api.listNodes().map(nodeJson),
    }),
  );
  app.get(
    "/v1/events",
    {
      schema: {
        summary: "Events as server-sent events; Last-Event-ID resumes without gaps",
        querystring: z.object({
          job: z.string().default(""),
          after: z.coerce.bigint().default(0n),
          follow: z.stringbool().default(true),
        }),
        response: { 200: eventSchema.describe("one per `data:` line of the text/event-stream"), ...failures },
      },
    },
    async (request, reply) => {
      const resumed = request.headers["last-event-id"];
      const afterId =
        typeof resumed === "string" && /^\d+$/.test(resumed) ? BigInt(resumed) : request.query.after;
      reply.hijack();
      const left = new AbortController();
      reply.raw.once("close", () => left.abort());
      reply.raw.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
      for await (const event of followEvents(
        api,
        { job: request.query.job, afterId, follow: request.query.follow },
        left.signal,
      )) {
        const written = reply.raw.write(
          `id: ${event.id}\nevent: ${event.kind}\ndata: ${JSON.stringify(eventJson(event))}\n\n`,
        );
        if (!written) await new Promise((resolve) => reply.raw.once("drain", resolve).once("close", resolve));
      }
      reply.raw.end();
    },
  );
}

function addServiceRoutes(
  app: App,
  api: ControllerApi,
  metrics: { contentType: string; render(): Promise<string> },
): void {
  app.get("/metrics", { schema: { hide: true } }, async (_request, reply) => {
    const text = await metrics.render();
    return reply.type(metrics.contentType).send(text);
  });
  app.get(
    "/healthz",
    { schema: { summary: "The process lives", response: { 200: z.object({ status: z.literal("ok") }) } } },
    () => ({
      status: "ok" as const,
    }),
  );
  app.get(
    "/readyz",
    {
      schema: {
        summary: "It leads and its store answers",
        response: { 200: z.object({ status: z.literal("ready") }), ...failures },
      },
    },
    () => {
      if (!api.isReady())
        throw new GokuError("NOT_LEADER", "Cannot serve: this controller does not lead yet");
      return { status: "ready" as const };
    },
  );
}

function problem(error: GokuError): z.infer<typeof problemSchema> {
  return {
    type: `urn:goku:error:${error.code.toLowerCase()}`,
    title: ERRORS[error.code].meaning,
    status: HTTP_STATUS[ERRORS[error.code].grpc],
    detail: error.message,
    code: error.code,
  };
}
