import type { z } from "zod";
import { finite } from "../../job/finite.js";
import type { RanksView } from "../core/view_ranks.js";
import type { RankDetail, StepsPoint } from "./controller_api.js";
import { rankJson } from "./json.js";
import type { curvesSchema, rankSchema, ranksSchema } from "./view_schemas.js";

/** Views of many ranks, or many steps, as JSON in columns. */
export function ranksJson(view: RanksView): z.infer<typeof ranksSchema> {
  const { generation, layout, nodes, nodeOf: node, health, step, slowness } = view;
  return { generation, layout, nodes, node, health, step, slowness: slowness.map(toMilli) };
}

export function rankDetailJson(detail: RankDetail): z.infer<typeof rankSchema> {
  const { rank, nodeId, host, device, failureDomain, connected, silentMs, health, slowness } = detail;
  return {
    rank,
    node_id: nodeId,
    host,
    device,
    failure_domain: failureDomain,
    connected,
    silent_seconds: silentMs / 1000,
    health,
    slowness,
    progress: detail.progress === null ? null : rankJson(detail.progress),
  };
}

export function curvesJson(points: readonly StepsPoint[]): z.infer<typeof curvesSchema> {
  const column = <K extends keyof StepsPoint>(name: K): StepsPoint[K][] => points.map((point) => point[name]);
  const numbers = (name: keyof StepsPoint) => points.map((point) => finite(point[name] ?? undefined));
  return {
    step: column("step"),
    steps: column("steps"),
    time: points.map(({ atMs }) => new Date(atMs).toISOString()),
    loss: numbers("loss"),
    grad_norm: numbers("gradNorm"),
    learning_rate: numbers("learningRate"),
    tokens: numbers("tokens"),
    step_seconds: numbers("stepSeconds"),
    compute_seconds: numbers("computeSeconds"),
    comm_wait_seconds: numbers("commWaitSeconds"),
    data_wait_seconds: numbers("dataWaitSeconds"),
    snapshot_seconds: numbers("snapshotSeconds"),
    pack_fill: numbers("packFill"),
    voted_down: column("votedDown"),
  };
}

/** Three digits say all that there is to see, and are a third of the bytes. */
function toMilli(slowness: number | null): number | null {
  return slowness === null ? null : Math.round(1000 * slowness) / 1000;
}
