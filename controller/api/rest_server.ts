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
import { addClusterRoutes } from "./cluster_routes.js";
import type { ControllerApi } from "./controller_api.js";
import { addJobRoutes } from "./job_routes.js";
import type { App } from "./rest_app.js";
import type { problemSchema } from "./schemas.js";
import { addServiceRoutes } from "./service_routes.js";

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

function problem(error: GokuError): z.infer<typeof problemSchema> {
  return {
    type: `urn:goku:error:${error.code.toLowerCase()}`,
    title: ERRORS[error.code].meaning,
    status: HTTP_STATUS[ERRORS[error.code].grpc],
    detail: error.message,
    code: error.code,
  };
}
