import { z } from "zod";
import { GokuError } from "../../job/errors.js";
import type { ControllerApi } from "./controller_api.js";
import { type App, failures } from "./rest_app.js";

/** Metrics and probes, for those who run the controller. */
export function addServiceRoutes(
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
