import type { LayoutChoice } from "../../job/choose_layout.js";
import { type ErrorCode, GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { Layout, type LayoutSize } from "../../job/layout.js";
import { type AssignableNode, assignRanks } from "./assign_ranks.js";
import type { StateName } from "./contract.js";
import { isWhole, memoryStates, nodesOfShard } from "./memory_states.js";
import { ranksText } from "./ranks_text.js";
import { compareStates, stateKey, stateText } from "./state_name.js";

/** Nodes named in a reason; the rest is counted. */
const NAMES_COUNT_MAX = 4;

/** The layout of a job on nodes with these slots; `chooseLayout` of job/ in production. */
export type LayoutChooser = (options: { slots: readonly number[]; job: Job }) => LayoutChoice;

export interface MembersInput {
  nowMs: number;
  job: Job;
  /** Reachable, fit for the job, and free or its own already. */
  nodes: readonly AssignableNode[];
  /** Last generation; null: none yet. */
  prior: { layout: LayoutSize; rankNodes: readonly string[] } | null;
  /** Some member was told of the last generation's abort: it cannot be training unseen. */
  aborted: boolean;
  /** Newest state known to be in two places for every rank; null: not known. */
  replicated: StateName | null;
  /** Keys of snapshots that failed to restore. */
  excludedSnapshots: ReadonlySet<string>;
  /** Prior nodes that will not come back or must not be used, with why. */
  givenUp: ReadonlyMap<string, string>;
  /** Prior nodes to be avoided where others can take their ranks, with why. */
  avoid: ReadonlyMap<string, string>;
  /** When the present wait for lost nodes began. */
  waitSinceMs: number;
  /** When a node last joined or became free. */
  nodesChangedMs: number;
  /** Slots of reachable nodes that serve other jobs, for the arithmetic people see. */
  busySlots: number;
  layoutSettleMs: number;
  chooseLayout: LayoutChooser;
}

export type MembersPlan =
  | { kind: "form"; layout: Layout; rankNodes: string[]; reason: string }
  /** Ask again when nodes change, or at the time given. */
  | { kind: "wait"; reason: string; retryAtMs: number | null }
  /** The grace for lost nodes is over and the rest is not enough. */
  | { kind: "exhausted"; code: ErrorCode; reason: string };

/**
 * Which nodes form the next generation of a job, in which layout; or why it waits. Pure.
 *
 * A lost node is waited for while the state in its memory is the newest; not where the others hold what was replicated
 * last and have the slots to go on from it. Where nobody could be told of the abort, it may still be training.
 */
export function planMembers(input: MembersInput): MembersPlan {
  return input.prior === null ? planFirst(input) : planNext(input, input.prior);
}

function planFirst(input: MembersInput): MembersPlan {
  const { job, nodes } = input;
  const slots = slotsOf(nodes);
  if (job.layout !== "auto") {
    const layout = new Layout(job.layout);
    if (slots < layout.worldSize) {
      return { kind: "wait", reason: shortageText(layout, input), retryAtMs: null };
    }
    return form(layout, nodes, null, `layout ${layout} is set in the job`);
  }
  if (slots === 0) {
    return { kind: "wait", reason: `no slot is free${busyText(input)}: start an agent`, retryAtMs: null };
  }
  const settledAtMs = input.nodesChangedMs + input.layoutSettleMs;
  if (input.nowMs < settledAtMs) {
    return { kind: "wait", reason: `${slotsText(nodes)}, more may join`, retryAtMs: settledAtMs };
  }
  return formAuto(input, "");
}

function planNext(
  input: MembersInput,
  prior: { layout: LayoutSize; rankNodes: readonly string[] },
): MembersPlan {
  const layout = new Layout(prior.layout);
  const usable = new Set(input.nodes.map((node) => node.nodeId));
  const members = [...new Set(prior.rankNodes)];
  const missing = members.filter((nodeId) => !usable.has(nodeId));
  const waited = missing.filter((nodeId) => !input.givenUp.has(nodeId));
  const calm = input.nodes.filter((node) => !input.avoid.has(node.nodeId));
  const moved = [...input.avoid].filter(([nodeId]) => usable.has(nodeId));
  const slots = slotsOf(input.nodes);
  if (missing.length === 0 && slots >= layout.worldSize) {
    if (moved.length > 0 && slotsOf(calm) >= layout.worldSize) {
      return form(layout, calm, prior.rankNodes, `without ${causesText(moved)}`);
    }
    return form(layout, input.nodes, prior.rankNodes, `all ${members.length} nodes answer`);
  }
  const graceMs = 1000 * input.job.recovery.node_grace_seconds;
  const graceEndMs = input.waitSinceMs + graceMs;
  if (waited.length > 0 && input.nowMs < graceEndMs) {
    const names = listText(namesWithRanks(waited, prior.rankNodes), waited.length);
    const mayTakeOver = input.aborted && slots >= layout.worldSize;
    const kept = mayTakeOver ? keptElsewhere(input, layout, prior.rankNodes) : null;
    if (kept !== null) {
      const why = `${names} cannot be reached, ${stateText(kept)} is whole in the memory of the others`;
      return form(layout, input.nodes, prior.rankNodes, `${why}: they take over at once`);
    }
    const reason = `waits for ${names}, at most ${input.job.recovery.node_grace_seconds} s: the state in its memory is the newest`;
    return { kind: "wait", reason, retryAtMs: graceEndMs };
  }
  const why = lostText({ missing, waited, givenUp: input.givenUp, graceMs });
  if (slots >= layout.worldSize)
    return form(layout, input.nodes, prior.rankNodes, `${why}: others take over`);
  if (input.job.layout === "auto" && slots > 0) return formAuto(input, `${why}: `);
  if (input.nowMs < graceEndMs) {
    return { kind: "wait", reason: `${why}; ${shortageText(layout, input)}`, retryAtMs: graceEndMs };
  }
  return { kind: "exhausted", code: "NODE_LOST", reason: `${why}; ${shortageText(layout, input)}` };
}

/**
 * A state that the members left hold whole between them, in the layout that it stays in, and that is what the job would
 * go back to without the lost ones: no older than what was last known to be replicated or, where that is not known
 * (replicas off, twins, a new leader), of the newest generation that memory knows of. Null: there is none.
 */
function keptElsewhere(input: MembersInput, layout: Layout, rankNodes: readonly string[]): StateName | null {
  const members = new Set(rankNodes);
  const states = memoryStates(
    input.nodes.filter(({ nodeId }) => members.has(nodeId)),
    layout,
  );
  const floor = input.replicated ?? { generation: states[0]?.state.generation ?? 0, step: 0 };
  const wanting = nodesOfShard(layout, rankNodes);
  for (const memory of states) {
    if (compareStates(memory.state, floor) < 0) return null;
    if (memory.layout !== layout || input.excludedSnapshots.has(stateKey(memory.state))) continue;
    if (isWhole(memory, wanting)) return memory.state;
  }
  return null;
}

function form(
  layout: Layout,
  nodes: readonly AssignableNode[],
  prior: readonly string[] | null,
  reason: string,
): MembersPlan {
  const rankNodes = assignRanks({ layout, nodes, prior });
  return { kind: "form", layout, rankNodes, reason };
}

/** Lets the chooser lay out every free slot; ranks follow the node order that it was told. */
function formAuto(input: MembersInput, why: string): MembersPlan {
  const nodes = [...input.nodes].sort((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
  try {
    const choice = input.chooseLayout({ slots: nodes.map((node) => node.slots), job: input.job });
    return form(new Layout(choice.layout), nodes, null, `${why}${choice.reason}`);
  } catch (error) {
    if (!(error instanceof GokuError)) throw error;
    return { kind: "exhausted", code: error.code, reason: `${why}${error.message}` };
  }
}

function slotsOf(nodes: readonly AssignableNode[]): number {
  return nodes.reduce((sum, node) => sum + node.slots, 0);
}

/** "layout 1x2x2 needs dp_replicate 1 * dp_shard 2 * sp 2 = 4 ranks: 3 slots free on 2 nodes, 4 more serve other jobs". */
function shortageText(layout: Layout, input: MembersInput): string {
  const { dpReplicate, dpShard, sp, worldSize } = layout;
  const needs = `dp_replicate ${dpReplicate} * dp_shard ${dpShard} * sp ${sp} = ${worldSize} ${worldSize === 1 ? "rank" : "ranks"}`;
  return `layout ${layout} needs ${needs}: ${slotsText(input.nodes)}${busyText(input)}`;
}

function slotsText(nodes: readonly AssignableNode[]): string {
  const slots = slotsOf(nodes);
  return `${slots} ${slots === 1 ? "slot" : "slots"} free on ${nodes.length} ${nodes.length === 1 ? "node" : "nodes"}`;
}

function busyText(input: MembersInput): string {
  return input.busySlots === 0 ? "" : `, ${input.busySlots} more serve other jobs`;
}

function namesWithRanks(nodeIds: readonly string[], rankNodes: readonly string[]): string[] {
  return nodeIds.slice(0, NAMES_COUNT_MAX).map((nodeId) => {
    const ranks = rankNodes.flatMap((owner, rank) => (owner === nodeId ? [rank] : []));
    return `${nodeId} (${ranksText(ranks)})`;
  });
}

function listText(shown: readonly string[], count: number): string {
  return count > shown.length ? `${shown.join(", ")} and ${count - shown.length} more` : shown.join(", ");
}

function causesText(causes: readonly (readonly [string, string])[]): string {
  return causes.map(([nodeId, why]) => `${nodeId} (${why})`).join(", ");
}

function lostText(options: {
  missing: readonly string[];
  waited: readonly string[];
  givenUp: ReadonlyMap<string, string>;
  graceMs: number;
}): string {
  const { missing, waited, givenUp, graceMs } = options;
  const parts: string[] = [];
  if (waited.length > 0) {
    const names = listText(waited.slice(0, NAMES_COUNT_MAX), waited.length);
    parts.push(`${names} did not return in ${graceMs / 1000} s`);
  }
  const left = missing.filter((nodeId) => givenUp.has(nodeId));
  for (const nodeId of left.slice(0, NAMES_COUNT_MAX))
    parts.push(`${nodeId} is given up (${givenUp.get(nodeId)})`);
  return parts.length === 0 ? "a node returned with fewer slots" : parts.join("; ");
}
