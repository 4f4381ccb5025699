import type { ServerResponse } from "node:http";
import { z } from "zod";
import type { WatchEventsResponse } from "../../gen/goku/v1/controller.pb.js";
import type { ControllerApi } from "./controller_api.js";
import { followEvents } from "./follow_events.js";
import { eventJson, nodeJson } from "./json.js";
import { type App, failures } from "./rest_app.js";
import { eventSchema, nodeSchema } from "./schemas.js";

/** A comment so often keeps proxies from ending a stream in which nothing happens. */
const COMMENT_MS = 15_000;

export function addClusterRoutes(app: App, api: ControllerApi): void {
  addListNodes(app, api);
  addReleaseNode(app, api);
  addEvents(app, api);
}

function addListNodes(app: App, api: ControllerApi): void {
  const schema = {
    summary: "List nodes",
    response: { 200: z.object({ nodes: z.array(nodeSchema) }), ...failures },
  };
  app.get("/v1/nodes", { schema }, () => ({ nodes: api.listNodes().map(nodeJson) }));
}

function addReleaseNode(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Use a quarantined node again, once what could not be ended there is gone",
    params: z.object({ node_id: z.string().min(1) }),
    response: { 200: z.object({}), ...failures },
  };
  app.post("/v1/nodes/:node_id/release", { schema }, async (request) => {
    await api.releaseNode(request.params.node_id);
    return {};
  });
}

function addEvents(app: App, api: ControllerApi): void {
  const schema = {
    summary: "Events as server-sent events; Last-Event-ID resumes without gaps",
    querystring: z.object({
      job: z.string().default(""),
      after: z.coerce.bigint().default(0n),
      follow: z.stringbool().default(true),
    }),
    response: { 200: eventSchema.describe("one per `data:` line of the text/event-stream"), ...failures },
  };
  app.get("/v1/events", { schema }, async (request, reply) => {
    const { job, after, follow } = request.query;
    const resumed = request.headers["last-event-id"];
    const afterId = typeof resumed === "string" && /^\d+$/.test(resumed) ? BigInt(resumed) : after;
    const left = new AbortController();
    const events = followEvents(api, { job, afterId, follow }, left.signal);
    reply.hijack();
    reply.raw.once("close", () => left.abort());
    await sendEvents(reply.raw, events);
  });
}

/** From here on the answer is ours: an error can only end the stream, and the reader resumes after its last event. */
async function sendEvents(raw: ServerResponse, events: AsyncIterable<WatchEventsResponse>): Promise<void> {
  raw.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
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
