import type { FastifyInstance } from "fastify";
import { Operations } from "../../controller/api/operations.js";
import { restServer } from "../../controller/api/rest_server.js";
import { readPageFiles } from "../../controller/shell/page_files.js";
import { testGuard } from "../support/guards.js";
import type { SimulatedViews } from "../support/simulated_views.js";

/** The real page and the real REST, over simulated views. `options` name what the guard asks for. */
export async function serveViews(
  views: SimulatedViews,
  options: Parameters<typeof testGuard>[0] = {},
): Promise<{ url: string; app: FastifyInstance }> {
  const { guard } = testGuard({ requestsPerSecond: 10_000, nowMs: () => performance.now(), ...options });
  const { api } = views;
  const app = await restServer({
    api,
    operations: new Operations(api, () => {}),
    guard,
    metrics: { contentType: "text/plain", render: async () => "" },
    version: "0.1.0",
    cluster: "goku",
    page: readPageFiles(),
    tls: null,
  });
  return { url: await app.listen({ host: "127.0.0.1", port: 0 }), app };
}
