import type { LayoutSize } from "../../job/layout.js";
import { isOver } from "./jobs.js";
import type { CoreState, GenerationState, JobState } from "./state.js";
import { isReachable, type Turn } from "./turn.js";
import type { RankPage } from "./wire.js";

/**
 * How a rank does, worst first:
 * failed    the open incident names it, or its node, as the cause;
 * lost      its node is not heard;
 * slow      it holds the others up by more than chance;
 * waiting   its generation is being formed, or has ended and another is to come;
 * training  none of these.
 */
export const RANK_HEALTHS = ["failed", "lost", "slow", "waiting", "training"] as const;
export type RankHealth = (typeof RANK_HEALTHS)[number];

/** All ranks of a job's newest generation, in columns: the index is the rank, so that 12,288 of them are a small answer. */
export interface RanksView {
  generation: number;
  layout: LayoutSize | null;
  /** Nodes in the order of their first rank. */
  nodes: string[];
  /** Index into `nodes`. */
  nodeOf: number[];
  health: RankHealth[];
  /** Last completed step; null: not told. */
  step: (number | null)[];
  /** Own compute time over the others'; null: not known. */
  slowness: (number | null)[];
}

export interface RankView {
  rank: number;
  nodeId: string;
  host: string;
  device: string;
  failureDomain: string;
  connected: boolean;
  silentMs: number;
  health: RankHealth;
  slowness: number | null;
  /** Null: its process has told nothing in this generation. */
  page: RankPage | null;
}

/** Empty where the job has no ranks: it waits, or is over. */
export function ranksView(state: CoreState, jobId: string, nowMs: number): RanksView {
  const job = state.jobs.get(jobId);
  const generation = placed(job);
  if (job === undefined || generation === null)
    return { generation: 0, layout: null, nodes: [], nodeOf: [], health: [], step: [], slowness: [] };
  const nodes = [...new Set(generation.rankNodes)];
  const indexes = new Map(nodes.map((nodeId, index) => [nodeId, index]));
  const healthOf = healths(state, job, nowMs);
  return {
    generation: generation.number,
    layout: generation.layout.size,
    nodes,
    nodeOf: generation.rankNodes.map((nodeId) => indexes.get(nodeId)!),
    health: generation.rankNodes.map((nodeId, rank) => healthOf(rank, nodeId)),
    step: generation.pages.map((page) => page?.step ?? null),
    slowness: generation.rankNodes.map((_, rank) => slownessOf(job, rank)),
  };
}

/** Null: the job has no such rank now. */
export function rankView(state: CoreState, jobId: string, rank: number, nowMs: number): RankView | null {
  const job = state.jobs.get(jobId);
  const generation = placed(job);
  const nodeId = generation?.rankNodes[rank];
  if (job === undefined || generation === null || nodeId === undefined) return null;
  const node = state.nodes.get(nodeId);
  return {
    rank,
    nodeId,
    host: node?.host ?? "",
    device: generation.device,
    failureDomain: node?.failureDomain ?? "",
    connected: node?.session != null,
    silentMs: node === undefined ? 0 : Math.max(0, nowMs - node.heardMs),
    health: healths(state, job, nowMs)(rank, nodeId),
    slowness: slownessOf(job, rank),
    page: generation.pages[rank] ?? null,
  };
}

function placed(job: JobState | undefined): GenerationState | null {
  return job === undefined || isOver(job) ? null : job.generation;
}

/** Looks each node up once, however many ranks it has. */
function healths(
  state: CoreState,
  job: JobState,
  nowMs: number,
): (rank: number, nodeId: string) => RankHealth {
  const { incident } = job;
  const generation = job.generation!;
  const turn: Turn = { state, nowMs, effects: [] };
  const lost = new Set(
    [...generation.nodeRanks.keys()].filter((nodeId) => !isReachable(turn, state.nodes.get(nodeId))),
  );
  const slow = new Set([...generation.pace.told.values()].flatMap(({ ranks }) => ranks));
  const isHurt = incident !== null && incident.generationBefore === generation.number;
  const trains = job.stage === "running" && generation.stage === "run";
  return (rank, nodeId) => {
    if (isHurt && (incident.rank === null ? incident.nodeId === nodeId : incident.rank === rank))
      return "failed";
    if (lost.has(nodeId)) return "lost";
    if (!trains) return "waiting";
    return slow.has(rank) ? "slow" : "training";
  };
}

function slownessOf(job: JobState, rank: number): number | null {
  const typical = job.stage === "running" ? job.generation?.pace.verdict?.typical[rank] : undefined;
  return typical !== undefined && Number.isFinite(typical) ? typical : null;
}
