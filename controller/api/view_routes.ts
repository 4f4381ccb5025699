import { z } from "zod";
import type { ControllerApi } from "./controller_api.js";
import { type App, failures } from "./rest_app.js";
import { callerOf } from "./rest_guard.js";
import { curvesJson, rankDetailJson, ranksJson } from "./view_json.js";
import { curvesSchema, meSchema, rankSchema, ranksSchema } from "./view_schemas.js";

const params = z.object({ name: z.string().min(1) });

/** What a page shows of a job with thousands of ranks and steps, each in one small answer. */
export function addViewRoutes(app: App, api: ControllerApi): void {
  const me = { summary: "Who asks, and what he may do", response: { 200: meSchema, ...failures } };
  app.get("/v1/me", { schema: me }, (request) => {
    const { name, via, role } = callerOf(request).principal!; // anyone who may look is known
    return { name, via, role: role === "read" ? ("read" as const) : ("operate" as const) };
  });
  const curves = {
    summary: "Curves of a job's steps since this controller leads, in at most 1,000 points",
    params,
    response: { 200: curvesSchema, ...failures },
  };
  app.get("/v1/jobs/:name/curves", { schema: curves, config: { permission: "getJob" } }, (request) =>
    curvesJson(api.curves(request.params.name)),
  );
  const ranks = {
    summary: "Every rank of a job: its node, health, step and slowness, in columns",
    params,
    response: { 200: ranksSchema, ...failures },
  };
  app.get("/v1/jobs/:name/ranks", { schema: ranks, config: { permission: "getJob" } }, (request) =>
    ranksJson(api.ranks(request.params.name)),
  );
  const rank = {
    summary: "One rank: where it runs and what it does",
    params: params.extend({ rank: z.coerce.number().int().min(0) }),
    response: { 200: rankSchema, ...failures },
  };
  app.get("/v1/jobs/:name/ranks/:rank", { schema: rank, config: { permission: "getJob" } }, (request) =>
    rankDetailJson(api.rank(request.params.name, request.params.rank)),
  );
}
