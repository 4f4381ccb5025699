import type { Layout } from "../../job/layout.js";
import type { StateName } from "./contract.js";
import { mustStop } from "./form.js";
import { wirePlace, wireState } from "./phase_commands.js";
import type { RestorePlace } from "./restore_places.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { compareStates, sameState, stateText } from "./state_name.js";
import { log, observe, send, sendAll, type Turn } from "./turn.js";
import type { PreviewOutcome, Report } from "./wire.js";

/**
 * Pictures drawn while a job trains. The ranks vote on nothing new: the snapshot of a step whose number says so is pinned
 * on the first shard group, and rank 0's agent tells that it is due. Here it is decided where it is drawn and what is
 * read; there it is drawn by a process that ends with the generation. Nothing but pictures depends on any of it.
 */
export type PreviewPlan =
  | { kind: "draw"; nodeId: string; places: RestorePlace[]; reason: string }
  | { kind: "skip"; reason: string };

/** Whether a preview that is due is drawn, where, and from which nodes. Pure. */
export function planPreview(options: {
  /** Why the generation is about to end; null: it is not. */
  ending: string | null;
  /** The one that is still being drawn; null: none is. */
  drawing: StateName | null;
  layout: Layout;
  /** Node of every rank, in rank order. */
  rankNodes: readonly string[];
  /** Whether other nodes can read the snapshots of this one. */
  serves: (nodeId: string) => boolean;
}): PreviewPlan {
  const { ending, drawing, layout, rankNodes, serves } = options;
  if (ending !== null) return { kind: "skip", reason: ending };
  if (drawing !== null)
    return {
      kind: "skip",
      reason: `that of step ${drawing.step} is still being drawn: raise sample.every_steps`,
    };
  // Rank 0's node is a member while the generation lasts, and has a part of what is read.
  const nodeId = rankNodes[0]!;
  const places = rankNodes
    .slice(0, layout.shardGroupSize)
    .map((holder, rank) => ({ rank, nodeId: holder }))
    .filter((place) => place.nodeId !== nodeId);
  const silent = places.find((place) => !serves(place.nodeId));
  if (silent !== undefined)
    return { kind: "skip", reason: `${silent.nodeId}, which has a part of the weights, cannot be read now` };
  const read = new Set(places.map((place) => place.nodeId)).size;
  return {
    kind: "draw",
    nodeId,
    places,
    reason: `on ${nodeId}, which has rank 0, with ${read} other nodes read`,
  };
}

export function onPreviewDue(
  turn: Turn,
  job: JobState,
  node: NodeState,
  { state }: Report & { kind: "previewDue" },
): void {
  const generation = job.generation!;
  const { previews, rankNodes, layout } = generation;
  if (rankNodes[0] !== node.nodeId || !isNewer(state, previews.due)) return;
  previews.due = state;
  const { nodes } = turn.state;
  const plan = planPreview({
    ending: endingOf(job, generation),
    drawing: previews.drawing?.state ?? null,
    layout,
    rankNodes,
    serves: (nodeId) => (nodes.get(nodeId)?.peerPort ?? 0) > 0 && nodes.get(nodeId)?.session !== null,
  });
  if (plan.kind === "skip") {
    tellEnd(turn, job, { state, nodeId: node.nodeId, outcome: { kind: "skipped", reason: plan.reason } });
    sendAll(turn, generation, releaseOf(generation, state));
    return;
  }
  previews.drawing = { state, nodeId: plan.nodeId, places: plan.places, isRead: false };
  const text = `draws a preview of ${stateText(state)} ${plan.reason}`;
  log(turn, { level: "info", type: "preview", jobId: job.record.jobId, nodeId: plan.nodeId, text });
  sendDraw(turn, generation);
}

function endingOf(job: JobState, generation: GenerationState): string | null {
  if (generation.finished !== null || mustStop(job)) return "the generation ends";
  return generation.yielding ? "the generation ends at its next vote, to take in more nodes" : null;
}

export function onPreviewRead(turn: Turn, job: JobState, { state }: Report & { kind: "previewRead" }): void {
  const generation = job.generation!;
  const { drawing } = generation.previews;
  if (drawing !== null && sameState(drawing.state, state)) drawing.isRead = true;
  sendAll(turn, generation, releaseOf(generation, state));
}

export function onPreviewEnded(
  turn: Turn,
  job: JobState,
  node: NodeState,
  { state, outcome }: Report & { kind: "previewEnded" },
): void {
  const generation = job.generation!;
  const { previews } = generation;
  const wasDrawing = previews.drawing !== null && sameState(previews.drawing.state, state);
  if (wasDrawing) previews.drawing = null;
  sendAll(turn, generation, releaseOf(generation, state));
  const isRepeat = !wasDrawing && !isNewer(state, previews.ended);
  if (isNewer(state, previews.ended)) previews.ended = state;
  if (isRepeat) return;
  tellEnd(turn, job, { state, nodeId: node.nodeId, outcome });
}

/** The generation is over, and with it the process that draws. */
export function giveUpPreview(turn: Turn, job: JobState): void {
  const { generation } = job;
  const drawing = generation?.previews.drawing ?? null;
  if (generation === null || drawing === null) return;
  generation.previews.drawing = null;
  const { state, nodeId } = drawing;
  const reason = `generation ${generation.number} ended while it was being drawn`;
  tellEnd(turn, job, { state, nodeId, outcome: { kind: "skipped", reason } });
}

/** A member is back, and may have missed what was asked of it last. */
export function resumePreviews(turn: Turn, generation: GenerationState, node: NodeState): void {
  const { due, drawing } = generation.previews;
  const unread = drawing === null || drawing.isRead ? null : drawing;
  if (unread?.nodeId === node.nodeId) sendDraw(turn, generation);
  // An older one that it has missed is forgotten when the next is due.
  if (due !== null && !(unread !== null && sameState(unread.state, due)))
    send(turn, node, releaseOf(generation, due));
}

function sendDraw(turn: Turn, generation: GenerationState): void {
  const { state, nodeId, places } = generation.previews.drawing!;
  const { nodes } = turn.state;
  send(turn, nodes.get(nodeId), {
    $case: "drawPreview",
    value: {
      generation: BigInt(generation.number),
      state: wireState(state),
      places: places.map((place) => wirePlace(nodes, place)),
    },
  });
}

/** For every member: which of them pin it follows from the layout, and the others have nothing to end. */
function releaseOf(generation: GenerationState, state: StateName) {
  const value = { generation: BigInt(generation.number), state: wireState(state) };
  return { $case: "releasePreview", value } as const;
}

function tellEnd(
  turn: Turn,
  job: JobState,
  { state, nodeId, outcome }: { state: StateName; nodeId: string; outcome: PreviewOutcome },
): void {
  const { jobId } = job.record;
  observe(turn, "goku_previews_total", 1, { job: job.record.job.name, outcome: outcome.kind });
  const what = `preview of ${stateText(state)}`;
  switch (outcome.kind) {
    case "drawn": {
      const text = `${what} is drawn: ${outcome.uri} (${outcome.seconds.toFixed(1)} s)`;
      log(turn, { level: "info", type: "preview", jobId, nodeId, text });
      return;
    }
    case "skipped": {
      const text = `${what} is left out: ${outcome.reason}`;
      log(turn, { level: "info", type: "preview", jobId, nodeId, text });
      return;
    }
    case "failed": {
      const { code, message } = outcome.error;
      const text = `${what} failed (${code}: ${message}); training goes on`;
      log(turn, { level: "warning", type: "preview", jobId, nodeId, text });
    }
  }
}

function isNewer(state: StateName, than: StateName | null): boolean {
  return than === null || compareStates(state, than) > 0;
}
