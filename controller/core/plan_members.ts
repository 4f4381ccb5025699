import type { LayoutChoice } from "../../job/choose_layout.js";
import { type AnyJob, isCommandJob } from "../../job/command_job.js";
import type { Device } from "../../job/device.js";
import { type ErrorCode, GokuError } from "../../job/errors.js";
import { Layout, type LayoutSize } from "../../job/layout.js";
import { type AssignableNode, assignRanks } from "./assign_ranks.js";
import type { StateName } from "./contract.js";
import { isWhole, memoryStates, nodesOfShard } from "./memory_states.js";
import { ranksText } from "./ranks_text.js";
import { compareStates, stateKey, stateText } from "./state_name.js";

/** Nodes named in a reason; the rest is counted. */
const NAMES_COUNT_MAX = 4;
/** How much longer an auto layout waits for nodes that are being examined. */
const EXAMINE_MS_MAX = 10_000;

/** The layout of a job on nodes with these slots; `chooseLayout` of job/ in production. */
export type LayoutChooser = (options: { slots: readonly number[]; job: AnyJob }) => LayoutChoice;

export interface MembersInput {
  nowMs: number;
  job: AnyJob;
  /** Reachable, fit for the job, and free or its own already. */
  nodes: readonly AssignableNode[];
  /** What the job computes on; auto: its first generation decides. */
  device: Device | "auto";
  /** Those of the nodes that have a CUDA device. */
  withCuda: ReadonlySet<string>;
  /** Nodes that are fit but for the device, and left out. */
  lacking: number;
  /** Last generation; null: none yet. */
  prior: { layout: LayoutSize; rankNodes: readonly string[] } | null;
  /** Some member was told of the last generation's abort: it cannot be training unseen. */
  aborted: boolean;
  /** Newest state known to be in two places for every rank; null: not known. */
  replicated: StateName | null;
  /** Where the last generation ended by a vote: that state is durable, and nobody's memory holds a newer one. Null: it did not. */
  finished: StateName | null;
  /** No generation has trained yet: nothing is in anybody's memory. */
  untrained: boolean;
  /** Keys of snapshots that failed to restore. */
  excludedSnapshots: ReadonlySet<string>;
  /** The last generation yielded to a larger layout. */
  grows: boolean;
  /** Prior nodes that will not come back or must not be used, with why. */
  givenUp: ReadonlyMap<string, string>;
  /** Nodes to be avoided where others can take their ranks, with why. */
  avoid: ReadonlyMap<string, string>;
  /** When the present wait for lost nodes began. */
  waitSinceMs: number;
  /** When a node last joined or became free. */
  nodesChangedMs: number;
  /** Slots of reachable nodes that serve other jobs, for the arithmetic people see. */
  busySlots: number;
  /** Nodes whose agents ended while they could be heard: their memory may be there when these start again. */
  ended: ReadonlySet<string>;
  /** Newest step whose state the last generation may hold in memory, and how long a step takes; 0: not known. */
  stepHeld: number;
  stepMs: number;
  /** Nodes whose self-checks are under way. */
  examined: number;
  layoutSettleMs: number;
  chooseLayout: LayoutChooser;
}

export type MembersPlan =
  | { kind: "form"; layout: Layout; rankNodes: string[]; device: Device; reason: string }
  /** Ask again when nodes change, or at the time given. */
  | { kind: "wait"; reason: string; retryAtMs: number | null }
  /** The grace for lost nodes is over and the rest is not enough. */
  | { kind: "exhausted"; code: ErrorCode; reason: string };

/**
 * Which nodes form the next generation of a job, in which layout; or why it waits. Pure.
 *
 * A lost node is waited for while the state in its memory is the newest; where the others hold what was replicated last and
 * have the slots to go on from it, only as long as the steps since then are worth, and where nothing has been computed not at
 * all. Where nobody could be told of the abort, it may still be training.
 */
export function planMembers(input: MembersInput): MembersPlan {
  if (input.device !== "auto") return planOn(input.device, input);
  const { nodes, withCuda } = input;
  const able = nodes.filter(({ nodeId }) => withCuda.has(nodeId));
  if (able.length > 0) {
    const plan = planOn("cuda", { ...input, nodes: able });
    // Without enough of them, nodes that have none are taken in.
    const isShort = plan.kind === "wait" && plan.retryAtMs === null && able.length < nodes.length;
    if (!isShort) return plan;
  }
  return planOn("cpu", input);
}

function planOn(device: Device, input: MembersInput): MembersPlan {
  const plan = input.prior === null ? planFirst(input) : planNext(input, input.prior);
  return plan.kind === "form" ? { ...plan, device } : plan;
}

/** A plan before it is said on what. */
type Plan = Exclude<MembersPlan, { kind: "form" }> | Omit<Extract<MembersPlan, { kind: "form" }>, "device">;

function planFirst(input: MembersInput): Plan {
  const { job, nodes } = input;
  const slots = slotsOf(nodes);
  if (job.layout !== "auto") {
    const layout = new Layout(job.layout);
    if (slots < layout.worldSize) {
      return { kind: "wait", reason: shortageText(layout, input), retryAtMs: null };
    }
    return form(layout, nodes, null, `layout ${layout} is set in the job`);
  }
  const settledAtMs = input.nodesChangedMs + input.layoutSettleMs;
  if (input.examined > 0 && input.nowMs < settledAtMs + EXAMINE_MS_MAX) {
    const many = input.examined === 1 ? "1 node is" : `${input.examined} nodes are`;
    return { kind: "wait", reason: `${many} being examined`, retryAtMs: settledAtMs + EXAMINE_MS_MAX };
  }
  if (slots === 0) {
    const what = input.device === "cuda" ? "an agent on a machine with a GPU" : "an agent";
    const reason = `no slot is free${busyText(input)}${lackingText(input)}: start ${what}`;
    return { kind: "wait", reason, retryAtMs: null };
  }
  if (input.nowMs < settledAtMs) {
    return { kind: "wait", reason: `${slotsText(nodes)}, more may join`, retryAtMs: settledAtMs };
  }
  return formAuto(input, "", job.recovery.spares);
}

function planNext(input: MembersInput, prior: { layout: LayoutSize; rankNodes: readonly string[] }): Plan {
  const layout = new Layout(prior.layout);
  const usable = new Set(input.nodes.map((node) => node.nodeId));
  const members = [...new Set(prior.rankNodes)];
  const missing = members.filter((nodeId) => !usable.has(nodeId));
  const waited = missing.filter((nodeId) => !input.givenUp.has(nodeId));
  const calm = input.nodes.filter((node) => !input.avoid.has(node.nodeId));
  const moved = [...input.avoid].filter(([nodeId]) => usable.has(nodeId) && members.includes(nodeId));
  // What a member holds may be wanted; of the others those to be avoided are taken only where nothing else is left.
  const chosen = input.nodes.filter(({ nodeId }) => !input.avoid.has(nodeId) || members.includes(nodeId));
  const nodes = slotsOf(chosen) >= layout.worldSize ? chosen : input.nodes;
  const slots = slotsOf(nodes);
  const starting = isCommandJob(input.job); // from its own checkpoints, on whatever there is
  const isAuto = input.job.layout === "auto";
  const { spares } = input.job.recovery;
  if (missing.length === 0 && starting && isAuto) {
    const without = moved.length > 0 && calm.length > 0;
    const why = without ? `without ${causesText(moved)}: ` : "";
    return formAuto(without ? { ...input, nodes: calm } : input, why, spares);
  }
  if (missing.length === 0 && input.grows) return formAuto(input, "", spares);
  if (missing.length === 0 && slots >= layout.worldSize) {
    if (moved.length > 0 && slotsOf(calm) >= layout.worldSize) {
      return formAmong(input, layout, calm, prior.rankNodes, `without ${causesText(moved)}`);
    }
    return formAmong(input, layout, nodes, prior.rankNodes, `all ${members.length} nodes answer`);
  }
  const graceMs = 1000 * input.job.recovery.node_grace_seconds;
  const graceEndMs = input.waitSinceMs + graceMs;
  if (waited.length > 0 && input.nowMs < graceEndMs) {
    const names = listText(namesWithRanks(waited, prior.rankNodes), waited.length);
    const mayTakeOver = input.aborted && slots >= layout.worldSize;
    if (mayTakeOver && input.finished !== null) {
      const why = `${names} cannot be reached, and nothing is newer than ${stateText(input.finished)}, which is durable`;
      return formAmong(input, layout, nodes, prior.rankNodes, `${why}: others take over at once`);
    }
    const kept = mayTakeOver ? keptElsewhere(input, layout, prior.rankNodes) : null;
    if (kept !== null) {
      const returns = awaitReturn(input, { waited, names, kept });
      if (returns !== null) return returns;
      const why = `${names} cannot be reached, ${stateText(kept)} is whole in the memory of the others`;
      return formAmong(input, layout, nodes, prior.rankNodes, `${why}: they take over at once`);
    }
    const isEmpty = starting || input.untrained;
    if (isEmpty && mayTakeOver) {
      const why = `${names} cannot be reached, and no state is kept there`;
      return formAmong(input, layout, nodes, prior.rankNodes, `${why}: others take over at once`);
    }
    if (isEmpty) {
      const reason = `waits for ${names}, at most ${input.job.recovery.node_grace_seconds} s`;
      return { kind: "wait", reason, retryAtMs: graceEndMs };
    }
    const reason = `waits for ${names}, at most ${input.job.recovery.node_grace_seconds} s: the state in its memory is the newest`;
    return { kind: "wait", reason, retryAtMs: graceEndMs };
  }
  const why = lostText({ missing, waited, givenUp: input.givenUp, graceMs });
  if (slots >= layout.worldSize)
    return formAmong(input, layout, nodes, prior.rankNodes, `${why}: others take over`);
  if (isAuto && slots > 0) return formAuto(input, `${why}: `);
  if (input.nowMs < graceEndMs) {
    return { kind: "wait", reason: `${why}; ${shortageText(layout, input)}`, retryAtMs: graceEndMs };
  }
  return { kind: "exhausted", code: "NODE_LOST", reason: `${why}; ${shortageText(layout, input)}` };
}

/** Waits for agents that only ended, where their memory is worth it; null: nothing, or nothing more, is waited for. */
function awaitReturn(
  { ended, stepHeld, stepMs, waitSinceMs, nowMs }: MembersInput,
  { waited, names, kept }: { waited: readonly string[]; names: string; kept: StateName },
): Plan | null {
  const mayReturn = waited.every((nodeId) => ended.has(nodeId));
  const worthMs = mayReturn ? worthMsOf({ stepHeld, stepKept: kept.step, stepMs }) : 0;
  if (nowMs >= waitSinceMs + worthMs) return null;
  const steps = `${stepHeld - kept.step} ${stepHeld - kept.step === 1 ? "step" : "steps"}`;
  const seconds = (worthMs / 1000).toFixed(1);
  const reason = `waits for ${names}, whose agent ended, at most ${seconds} s: so long would the ${steps} take that only its memory holds`;
  return { kind: "wait", reason, retryAtMs: waitSinceMs + worthMs };
}

/**
 * How long to wait for memory that may come back: no longer than it takes to compute again what going on from an older copy
 * gives up. Whoever waits so long and in vain loses twice what was at stake, never more.
 */
export function worthMsOf(options: { stepHeld: number; stepKept: number; stepMs: number }): number {
  const { stepHeld, stepKept, stepMs } = options;
  return Math.ceil(Math.max(0, stepHeld - stepKept) * stepMs);
}

/**
 * The layout with which a job that trains would keep more ranks busy than now, were its members and the free nodes its
 * own; null: none. A member that is out of sight, or a job with a layout of its own, changes nothing; nor does a program
 * of its own, which would have to start again: it takes free nodes when it does so anyway.
 */
export function planGrowth(input: MembersInput): { layout: Layout; reason: string } | null {
  const { job, prior } = input;
  if (job.layout !== "auto" || prior === null || isCommandJob(job)) return null;
  const usable = new Set(input.nodes.map((node) => node.nodeId));
  if (prior.rankNodes.some((nodeId) => !usable.has(nodeId))) return null;
  const choice = chooseAuto(input, autoNodes(input, job.recovery.spares));
  if (choice instanceof GokuError) return null;
  const { packs_per_step: packs } = job.train;
  const layout = new Layout(choice.layout);
  const isMore = busyRanks(layout, packs) > busyRanks(new Layout(prior.layout), packs);
  return isMore ? { layout, reason: choice.reason } : null;
}

/** Ranks that have a part of some pack in every step. */
function busyRanks({ dataRankCount, sp }: Layout, packsPerStep: number): number {
  return sp * Math.min(dataRankCount, packsPerStep);
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

/** As `form`; what other nodes serve counts when it is decided who moves. */
function formAmong(
  input: MembersInput,
  layout: Layout,
  nodes: readonly AssignableNode[],
  prior: readonly string[],
  reason: string,
): Plan {
  const taken = new Set(nodes.map(({ nodeId }) => nodeId));
  const others = input.nodes.filter(
    ({ nodeId, serves, held }) => !taken.has(nodeId) && serves && held.length > 0,
  );
  return form(layout, [...nodes, ...others.map((node) => ({ ...node, slots: 0 }))], prior, reason);
}

function form(
  layout: Layout,
  nodes: readonly AssignableNode[],
  prior: readonly string[] | null,
  reason: string,
): Plan {
  const rankNodes = assignRanks({ layout, nodes, prior });
  return { kind: "form", layout, rankNodes, reason };
}

/** Lets the chooser lay out every free slot but those of spares; ranks follow the node order that it was told. */
function formAuto(input: MembersInput, why: string, spares = 0): Plan {
  const nodes = autoNodes(input, spares);
  const choice = chooseAuto(input, nodes);
  if (choice instanceof GokuError)
    return { kind: "exhausted", code: choice.code, reason: `${why}${choice.message}` };
  return form(new Layout(choice.layout), nodes, null, `${why}${choice.reason}`);
}

function chooseAuto({ chooseLayout, job }: MembersInput, nodes: readonly AssignableNode[]) {
  try {
    return chooseLayout({ slots: nodes.map((node) => node.slots), job });
  } catch (error) {
    if (error instanceof GokuError) return error;
    throw error;
  }
}

/**
 * Members, and free nodes but for so many spares and those to be avoided; one node at least. By name.
 */
function autoNodes({ nodes, prior, avoid }: MembersInput, spares: number): AssignableNode[] {
  const members = new Set(prior?.rankNodes);
  const free = nodes.filter(({ nodeId }) => !members.has(nodeId));
  const good = free.filter(({ nodeId }) => !avoid.has(nodeId));
  const present = nodes.filter(({ nodeId }) => members.has(nodeId));
  const byName = (a: AssignableNode, b: AssignableNode) => (a.nodeId < b.nodeId ? -1 : 1);
  const taken = good.sort(byName).slice(0, Math.max(0, good.length - spares));
  const chosen = [...present, ...taken];
  return (chosen.length > 0 ? chosen : [...good, ...free].slice(0, 1)).sort(byName);
}

function slotsOf(nodes: readonly AssignableNode[]): number {
  return nodes.reduce((sum, node) => sum + node.slots, 0);
}

/** "layout 1x2x2 needs dp_replicate 1 * dp_shard 2 * sp 2 = 4 ranks: 3 slots free on 2 nodes, 4 more serve other jobs". */
function shortageText(layout: Layout, input: MembersInput): string {
  const { dpReplicate, dpShard, sp, worldSize } = layout;
  const needs = `dp_replicate ${dpReplicate} * dp_shard ${dpShard} * sp ${sp} = ${worldSize} ${worldSize === 1 ? "rank" : "ranks"}`;
  return `layout ${layout} needs ${needs}: ${slotsText(input.nodes)}${busyText(input)}${lackingText(input)}`;
}

/** What to do about nodes that cannot compute as the job wants. */
function lackingText({ lacking, device }: MembersInput): string {
  if (lacking === 0 || device !== "cuda") return "";
  const nodes = lacking === 1 ? "1 more node has" : `${lacking} more nodes have`;
  return `; ${nodes} no CUDA device: see gokuctl doctor there, or set device to auto or cpu`;
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
