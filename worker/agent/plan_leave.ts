import type { RankProcess } from "./rank_process.js";

/** What an agent that was asked to end knows of itself. */
export interface LeaveView {
  passedMs: number;
  graceMs: number;
  /** A controller has its stream. */
  linked: boolean;
  /** It has ranks or snapshots of a job. */
  holds: boolean;
  stages: readonly RankProcess["stage"][];
  /** Its ranks were asked, by whomever, to end at the next vote. */
  stopAsked: boolean;
  /** The last save of its ranks was begun. */
  finalBegun: boolean;
  /** A save from memory, without the ranks, was begun. */
  heldBegun: boolean;
  /** No durable write is under way. */
  idle: boolean;
  /** How long the last save of this node took; null: none is known. */
  saveMs: number | null;
}

export interface LeaveStep {
  kind: "wait" | "askStop" | "saveHeld" | "end";
  reason: string;
}

/** Shares of the grace: for a controller to answer; until memory is saved where it is not known how long that takes, with a controller that may order it, and without. */
const ANSWER_SHARE = 1 / 4;
const HELD_SHARE_LINKED = 3 / 4;
const HELD_SHARE_ALONE = 1 / 2;
/** A save of a node that leaves is given twice the time of the last one: others may leave, and write, at the same time. */
const SAVES_OF_TIME = 2;
/** However short saves are: what is looked at, and ended, after one takes time, too. */
const HELD_SHARE_MAX = 9 / 10;

/**
 * The next thing that an agent does which was asked to end. The controller decides, as long as it answers; alone, the
 * agent has its ranks vote for the end, and where no vote comes saves what its memory holds. Pure.
 */
export function planLeave(view: LeaveView): LeaveStep {
  const { passedMs, graceMs, linked, stages } = view;
  if (!view.holds) return { kind: "end", reason: "nothing of a job is here" };
  if (view.idle && stages.length > 0 && stages.every((stage) => stage === "finished"))
    return { kind: "end", reason: "its ranks have ended, and their state is durable" };
  if (view.idle && view.heldBegun) return { kind: "end", reason: "its part in saving from memory is over" };
  if (passedMs >= graceMs) return { kind: "end", reason: `the grace of ${graceMs / 1000} s is over` };
  if (view.finalBegun || view.heldBegun) return { kind: "wait", reason: "a last save is under way" };
  const trains = stages.includes("running");
  if (trains && !view.stopAsked && (!linked || passedMs >= ANSWER_SHARE * graceMs)) {
    const why = linked ? "the controller has not answered" : "no controller is there";
    return { kind: "askStop", reason: `${why}: its ranks ask for a save and the end at the next vote` };
  }
  const heldMs = heldAfterMs(view);
  if (passedMs >= heldMs || (!linked && !trains))
    return { kind: "saveHeld", reason: trains ? "no vote came in time" : "its ranks do not train" };
  return { kind: "wait", reason: trains ? "its ranks have not voted yet" : "the controller decides" };
}

/** For how long a vote is waited for. As long as there is time for a save of memory after it, and with a controller never shorter than that may answer. */
function heldAfterMs({ graceMs, linked, saveMs }: LeaveView): number {
  if (saveMs === null) return (linked ? HELD_SHARE_LINKED : HELD_SHARE_ALONE) * graceMs;
  const leastMs = linked ? ANSWER_SHARE * graceMs : 0;
  return Math.min(HELD_SHARE_MAX * graceMs, Math.max(leastMs, graceMs - SAVES_OF_TIME * saveMs));
}
