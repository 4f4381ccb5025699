import swagger from "@fastify/swagger";
import Fastify, { type FastifyInstance } from "fastify";
import {
  jsonSchemaTransform,
  jsonSchemaTransformObject,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from "fastify-type-provider-zod";
import type { z } from "zod";
import { ERRORS, type ErrorCode, GokuError, toGokuError } from "../../job/errors.js";
import { contextOf } from "../../security/server_credentials.js";
import { HANDSHAKE_MS_MAX, type TlsMaterial } from "../../security/tls_files.js";
import { AS_OF_HEADER, asOfHeaders, STORE_SILENT_HEADER } from "./as_of.js";
import { addClusterRoutes } from "./cluster_routes.js";
import type { ControllerApi } from "./controller_api.js";
import type { Guard } from "./guard.js";
import { addJobRoutes } from "./job_routes.js";
import { NotLeaderError } from "./not_leader_error.js";
import type { Operations } from "./operations.js";
import { addPageRoutes, type PageFiles } from "./page_routes.js";
import { RateLimitedError } from "./rate_limited_error.js";
import type { App } from "./rest_app.js";
import { admitRequest, requirePermission } from "./rest_guard.js";
import type { problemSchema } from "./schemas.js";
import { addServiceRoutes } from "./service_routes.js";
import { addViewRoutes } from "./view_routes.js";

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
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
};
/** A job file is a few kilobytes; more than this is refused before it is parsed. */
const BODY_BYTES_MAX = 256 * 1024;

/** By then another controller may lead. */
const ELECTION_SECONDS = 1;

/** Slower requests than these are cut off, so that few clients cannot hold all connections. Answers may take their time. */
export interface RestLimits {
  headersMs: number;
  requestMs: number;
  connectionsMax: number;
}
const LIMITS: RestLimits = { headersMs: 10_000, requestMs: 30_000, connectionsMax: 1_000 };
/** Node looks for slow requests so often. */
const LOOK_MS = 1_000;

export interface RestOptions {
  api: ControllerApi;
  operations: Operations;
  guard: Guard;
  /** Renders the Prometheus text. */
  metrics: { contentType: string; render(): Promise<string> };
  version: string;
  /** Name that metrics of this cluster's nodes bear. */
  cluster: string;
  /** Of the web page. */
  page: PageFiles;
  /** Null: plain text. */
  tls: TlsMaterial | null;
  limits?: RestLimits;
}

/** The REST face of the API: translation only. */
export async function restServer(options: RestOptions): Promise<FastifyInstance> {
  const { api, operations, guard, metrics, version, cluster } = options;
  const app = listener(options).withTypeProvider<ZodTypeProvider>();
  app.decorateRequest("caller", null);
  app.decorateRequest("presented", null);
  app.addHook("onRoute", requirePermission);
  app.addHook("onRequest", async (request) => admitRequest(guard, request));
  app.addHook("onSend", async (request, reply) => {
    if (request.method === "GET" && request.url.startsWith("/v1/")) reply.headers(asOfHeaders(api.asOf()));
  });
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.setErrorHandler((error, request, reply) => {
    const validation = (error as { validation?: unknown; statusCode?: number }).validation;
    const clientFault =
      validation !== undefined || ((error as { statusCode?: number }).statusCode ?? 500) < 500;
    const known =
      error instanceof GokuError
        ? error
        : clientFault
          ? new GokuError("ARGUMENT_INVALID", (error as Error).message)
          : toGokuError(error);
    if (known instanceof RateLimitedError) void reply.header("retry-after", Math.ceil(known.waitMs / 1000));
    if (known.code === "UNAUTHENTICATED") void reply.header("www-authenticate", 'Bearer realm="goku"');
    const leader = known instanceof NotLeaderError ? leaderFor(known, options.tls !== null) : null;
    // A load balancer takes 307 for an answer of one that is well, so probes get an ordinary NOT_LEADER, never this.
    if (leader !== null)
      void reply.header("location", leader + request.url).header("cache-control", "no-store");
    else if (known.code === "NOT_LEADER") void reply.header("retry-after", ELECTION_SECONDS);
    void reply
      .code(leader === null ? statusOf(known.code) : 307)
      .type("application/problem+json")
      .send(problem(known, leader));
  });
  app.setNotFoundHandler((request, reply) => {
    const missing = new GokuError(
      "NOT_FOUND",
      `Cannot answer ${request.method} ${request.url}: no such path; see /openapi.json`,
    );
    void reply.code(404).type("application/problem+json").send(problem(missing, null));
  });
  await app.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Goku Cluster",
        version,
        description: `Jobs, nodes, incidents and checkpoints of a controller. While its store cannot be reached, what reads is answered from memory: the header ${AS_OF_HEADER} says of when, ${STORE_SILENT_HEADER} since when the store has been silent.`,
      },
    },
    transform: jsonSchemaTransform,
    transformObject: jsonSchemaTransformObject,
  });
  // Inside a plugin, so that every route is declared after swagger listens for them.
  await app.register((routes, _plugin, done) => {
    addJobRoutes(routes as unknown as App, api, operations, guard);
    addClusterRoutes(routes as unknown as App, api, operations, guard);
    addServiceRoutes(routes as unknown as App, api, metrics, cluster);
    addViewRoutes(routes as unknown as App, api);
    addPageRoutes(routes as unknown as App, api, options.page);
    done();
  });
  app.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
  await app.ready();
  return app as unknown as FastifyInstance;
}

/** What listens, and how long it waits for whom. */
function listener({ tls, limits = LIMITS }: RestOptions): FastifyInstance {
  const http = { headersTimeout: limits.headersMs, connectionsCheckingInterval: LOOK_MS };
  const common = {
    bodyLimit: BODY_BYTES_MAX,
    forceCloseConnections: true,
    requestTimeout: limits.requestMs,
  };
  const asks = {
    requestCert: tls?.ca != null,
    rejectUnauthorized: false,
    handshakeTimeout: HANDSHAKE_MS_MAX,
  };
  const app =
    tls === null
      ? Fastify({ ...common, http })
      : (Fastify({
          ...common,
          https: { ...http, ...contextOf(tls), ...asks },
        }) as unknown as FastifyInstance);
  app.server.maxConnections = limits.connectionsMax;
  return app;
}

function statusOf(code: ErrorCode): number {
  return code === "RATE_LIMITED" ? 429 : HTTP_STATUS[ERRORS[code].grpc];
}

/** Nobody is sent from TLS to plain text. */
function leaderFor({ leader }: NotLeaderError, isTls: boolean): string | null {
  return leader !== null && (!isTls || leader.rest.startsWith("https:")) ? leader.rest : null;
}

function problem(error: GokuError, leader: string | null): z.infer<typeof problemSchema> {
  return {
    type: `urn:goku:error:${error.code.toLowerCase()}`,
    title: ERRORS[error.code].meaning,
    status: leader === null ? statusOf(error.code) : 307,
    detail: error.message,
    code: error.code,
    ...(leader === null ? {} : { leader }),
  };
}
