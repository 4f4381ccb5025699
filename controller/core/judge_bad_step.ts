import type { SpikeBegins, StepCompleted, StepReplay } from "../../gen/goku/v1/agent.pb.js";
import { ROLL_BACK } from "../../job/left_out.js";
import { ranksText } from "./ranks_text.js";
import type { GenerationPlaces } from "./state.js";

export interface BadStepVerdict {
  /**
   * `hardware` some rank computed the same step to other bits, or what others find finite;
   * `data`     all computed the same again, other ranks too, so that it follows from data and weights;
   * `untold`   all computed the same again, and no other rank could try: data, weights, or a device that is always wrong;
   * `unread`   the ranks that share a sequence could not read the same samples.
   */
  cause: "hardware" | "data" | "untold" | "unread";
  /** The rank and node named; null: this does not tell which. */
  rank: number | null;
  nodeId: string | null;
  /** As what it is counted: the cause of numbers that were not finite; of spikes each, and hardware. */
  kinds: ("hardware" | "data" | "untold" | "unread" | "loss_spike" | "gradient_spike")[];
  /** What was seen, for people. */
  text: string;
}

/**
 * What a step tells whose numbers were bad, or that was voted down; null: it was an ordinary one, or not computed at all.
 *
 * A rank's losses are its own (with sequence parallelism its group's, which is on one node), so the node whose losses differed
 * was wrong in a forward pass. Wrong gradients reach the shards of others: where only norms differ, some backward pass or
 * reduction was wrong, and this does not tell whose. Pure.
 */
export function judgeBadStep(
  step: StepCompleted,
  { rankNodes, layout }: Pick<GenerationPlaces, "rankNodes" | "layout">,
): BadStepVerdict | null {
  const { replay, applied, leftOut } = step;
  const nobody = { rank: null, nodeId: null };
  if (replay === undefined) {
    if (applied || leftOut === ROLL_BACK) return null;
    const text = `step ${step.step} is voted down, no weight changed: ranks that share a sequence could not read the same samples of it`;
    return { cause: "unread", ...nobody, kinds: ["unread"], text };
  }
  const what = `step ${step.step} ${badText(replay)}`;
  const { lossRanks, normRanks, homeRanks } = replay;
  const own = lossRanks.length > 0 ? lossRanks : homeRanks;
  const differing = own.length > 0 ? own : normRanks;
  if (differing.length === 0) {
    const outcome = outcomeText(step, "applied all the same");
    const again = `${what}, and the same again when computed a second time: data or weights make it so`;
    const isTold = layout.dataRankCount > 1;
    const cause = isTold ? "data" : "untold";
    const kinds = kindsOf(replay, cause);
    if (isTold) return { cause, ...nobody, kinds, text: `${again}; ${outcome}` };
    const text = `${again}, or a device that is always wrong, since no other ranks could compute it; ${outcome}`;
    return { cause, ...nobody, kinds, text };
  }
  const outcome = outcomeText(step, "applied with the second numbers");
  const again = `other ${lossRanks.length > 0 ? "losses" : "gradients"} of ${ranksText(differing)} when computed a second time`;
  const ordinary = isSpike(replay) ? "others find smaller losses" : "others find their packs finite";
  const seen = homeRanks.length > 0 ? `on ${ranksText(homeRanks)} only: ${ordinary}` : again;
  const nodes = new Set(differing.map((rank) => rankNodes[rank] ?? ""));
  const isTold = own.length > 0 && nodes.size === 1 && !nodes.has("");
  const rank = isTold && differing.length === 1 ? differing[0]! : null;
  const nodeId = isTold ? [...nodes][0]! : null;
  const where = nodeId === null ? "it does not tell which device" : `a device of ${nodeId}`;
  const text = `${what}, and ${seen}: hardware ${homeRanks.length > 0 ? "is" : "was"} wrong, ${where}; ${outcome}`;
  return { cause: "hardware", rank, nodeId, kinds: kindsOf(replay, "hardware"), text };
}

function isSpike({ loss, gradient }: StepReplay): boolean {
  return loss !== undefined || gradient !== undefined;
}

function kindsOf(replay: StepReplay, cause: "hardware" | "data" | "untold"): BadStepVerdict["kinds"] {
  if (!isSpike(replay)) return [cause];
  const spikes = [
    ...(replay.loss ? ["loss_spike" as const] : []),
    ...(replay.gradient ? ["gradient_spike" as const] : []),
  ];
  return cause === "hardware" ? [cause, ...spikes] : spikes;
}

function badText(replay: StepReplay): string {
  if (!isSpike(replay)) return `was not finite (${packsText(replay.packs)})`;
  const { loss, gradient } = replay;
  const parts = [
    ...(loss ? [`a loss of ${spikeText(loss)}`] : []),
    ...(gradient ? [`a gradient norm of ${spikeText(gradient)}`] : []),
  ];
  return `had ${parts.join(" and ")}`;
}

/** "3.412: a spike, above 2.094, the median of the last steps is 0.698". */
export function spikeText({ value, limit, median }: SpikeBegins): string {
  return `${value.toPrecision(4)}: a spike, above ${limit.toPrecision(4)}, the median of the last steps is ${median.toPrecision(4)}`;
}

function outcomeText({ applied, rollBack }: StepCompleted, ifApplied: string): string {
  if (rollBack !== undefined) return `no weight changed, the run goes back to step ${rollBack.first - 1n}`;
  return applied ? ifApplied : "voted down, no weight changed";
}

function packsText(packs: readonly number[]): string {
  if (packs.length === 0) return "gradients";
  return `${packs.length === 1 ? "pack" : "packs"} ${packs.join(", ")}`;
}
