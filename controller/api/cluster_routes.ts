import type { ServerResponse } from "node:http";
import { z } from "zod";
import type { WatchEventsResponse } from "../../gen/goku/v1/controller.pb.js";
import { asOfHeaders } from "./as_of.js";
import type { ControllerApi } from "./controller_api.js";
import { followEvents } from "./follow_events.js";
import type { Guard } from "./guard.js";
import { diagnosisJson, eventJson, nodeJson } from "./json.js";
import type { Operations } from "./operations.js";
import { type App, failures } from "./rest_app.js";
import { callerOf, watchAnswer } from "./rest_guard.js";
import { diagnosisSchema, eventSchema, nodeSchema } from "./schemas.js";

/** A comment so often keeps proxies from ending a stream in which nothing happens. */
const COMMENT_MS = 15_000;

export function addClusterRoutes(app: App, api: ControllerApi, operations: Operations, guard: Guard): void {
  addListNodes(app, api);
  addReleaseNode(app, operations);
  addDrainNode(app, operations);
  addDiagnosis(app, api, operations);
  addEvents(app, api, guard);
}

function addListNodes(app: App, api: ControllerApi): void {
  const schema = {
    summary: "List nodes",
    response: { 200: z.object({ nodes: z.array(nodeSchema) }), ...failures },
  };
  app.get("/v1/nodes", { schema, config: { permission: "listNodes" } }, () => ({
    nodes: api.listNodes().map(nodeJson),
  }));
}

function addReleaseNode(app: App, operations: Operations): void {
  const schema = {
    summary: "Use a quarantined node again, once what could not be ended there is gone",
    params: z.object({ node_id: z.string().min(1) }),
    response: { 200: z.object({}), ...failures },
  };
  app.post(
    "/v1/nodes/:node_id/release",
    { schema, config: { permission: "releaseNode" } },
    async (request) => {
      await operations.releaseNode(callerOf(request), request.params.node_id);
      return {};
    },
  );
}

function addDrainNode(app: App, operations: Operations): void {
  const schema = {
    summary: "Give a node no ranks until it is released; a job that trains there goes on elsewhere",
    params: z.object({ node_id: z.string().min(1) }),
    response: { 202: z.object({}), ...failures },
  };
  app.post(
    "/v1/nodes/:node_id/drain",
    { schema, config: { permission: "drainNode" } },
    async (request, reply) => {
      await operations.drainNode(callerOf(request), request.params.node_id);
      return reply.code(202).send({});
    },
  );
}

function addDiagnosis(app: App, api: ControllerApi, operations: Operations): void {
  const ask = {
    summary: "Examine nodes that are free, then pairs of them; answers at once",
    body: z.object({ nodes: z.array(z.string().min(1)).default([]).describe("none: all") }).strict(),
    response: { 202: diagnosisSchema, ...failures },
  };
  app.post("/v1/diagnose", { schema: ask, config: { permission: "diagnose" } }, async (request, reply) => {
    const diagnosis = await operations.diagnose(callerOf(request), request.body.nodes);
    return reply.code(202).send(diagnosisJson(diagnosis));
  });
  const look = {
    summary: "The newest diagnosis, also while it is under way",
    response: { 200: diagnosisSchema, ...failures },
  };
  app.get("/v1/diagnose", { schema: look }, () => diagnosisJson(api.diagnosis()));
}

function addEvents(app: App, api: ControllerApi, guard: Guard): void {
  const schema = {
    summary: "Events as server-sent events; Last-Event-ID resumes without gaps",
    querystring: z.object({
      job: z.string().default(""),
      after: z.coerce.bigint().default(0n),
      follow: z.stringbool().default(true),
      past: z.coerce
        .number()
        .int()
        .min(0)
        .optional()
        .describe("of past events only the newest so many that are no steps; not after Last-Event-ID"),
    }),
    response: { 200: eventSchema.describe("one per `data:` line of the text/event-stream"), ...failures },
  };
  app.get("/v1/events", { schema, config: { permission: "watchEvents" } }, async (request, reply) => {
    const { job, after, follow, past } = request.query;
    const resumed = request.headers["last-event-id"];
    const isResumed = typeof resumed === "string" && /^\d+$/.test(resumed);
    const afterId = isResumed ? BigInt(resumed) : after;
    const pastMax = isResumed ? null : (past ?? null);
    const left = new AbortController();
    const events = followEvents(api, { job, afterId, follow, pastMax }, left.signal);
    const closed = guard.openEvents(callerOf(request));
    const forget = watchAnswer(guard, request, () => left.abort());
    reply.hijack();
    reply.raw.once("close", () => left.abort());
    await sendEvents(reply.raw, events, asOfHeaders(api.asOf())).finally(() => {
      closed();
      forget();
    });
  });
}

/** From here on the answer is ours: an error can only end the stream, and the reader resumes after its last event. */
async function sendEvents(
  raw: ServerResponse,
  events: AsyncIterable<WatchEventsResponse>,
  headers: Record<string, string>,
): Promise<void> {
  raw.writeHead(200, { ...headers, "content-type": "text/event-stream", "cache-control": "no-store" });
  raw.flushHeaders();
  const comment = setInterval(() => raw.write(":\n\n"), COMMENT_MS);
  try {
    for await (const event of events) {
      const written = raw.write(
        `id: ${event.id}\nevent: ${event.kind}\ndata: ${JSON.stringify(eventJson(event))}\n\n`,
      );
      if (!written) await new Promise((resolve) => raw.once("drain", resolve).once("close", resolve));
    }
  } catch {
    raw.destroy();
  } finally {
    clearInterval(comment);
    raw.end();
  }
}
