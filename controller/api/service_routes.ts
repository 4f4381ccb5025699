import { z } from "zod";
import { GokuError } from "../../job/errors.js";
import type { ControllerApi } from "./controller_api.js";
import { type App, failures } from "./rest_app.js";

/** What a Prometheus server asks for: https://prometheus.io/docs/prometheus/latest/http_sd/. */
const targetsSchema = z.array(
  z.object({
    targets: z.array(z.string()).describe("host:port"),
    labels: z.object({ __scheme__: z.string(), cluster: z.string(), node: z.string() }),
  }),
);

/** Metrics and probes, for those who run the controller. Probes are open to anybody: a kubelet shows no credentials. */
export function addServiceRoutes(
  app: App,
  api: ControllerApi,
  metrics: { contentType: string; render(): Promise<string> },
  cluster: string,
): void {
  app.get(
    "/metrics",
    { schema: { hide: true }, config: { permission: "metrics" } },
    async (_request, reply) => {
      const text = await metrics.render();
      return reply.type(metrics.contentType).send(text);
    },
  );
  app.get(
    "/v1/prometheus/targets",
    {
      schema: {
        summary: "Agents whose metrics can be read, as Prometheus's HTTP service discovery wants them",
        response: { 200: targetsSchema, ...failures },
      },
      config: { permission: "metrics" },
    },
    () =>
      api.metricsTargets().map(({ node, url }) => {
        const { protocol, host, port } = new URL(url);
        const isDefault = port === ""; // 80 and 443 vanish from a URL
        const address = isDefault ? `${host}:${protocol === "https:" ? 443 : 80}` : host;
        return { targets: [address], labels: { __scheme__: protocol.slice(0, -1), cluster, node } };
      }),
  );
  app.get(
    "/healthz",
    {
      schema: { summary: "The process lives", response: { 200: z.object({ status: z.literal("ok") }) } },
      config: { permission: "anybody" },
    },
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
      config: { permission: "anybody" },
    },
    () => {
      if (!api.isReady()) throw new GokuError("NOT_LEADER", `Cannot serve: ${api.standing()}`);
      return { status: "ready" as const };
    },
  );
}
