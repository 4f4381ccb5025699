import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { StepsPoint } from "../api/controller_api.js";
import { StepCurve } from "./step_curve.js";

const POINTS_MAX = 1_000;
const PACE_STEPS = 20;
/** Steps told to the node that takes over the record of a run. */
const RECENT_STEPS = 256;
/** Points of the curve that outlasts this controller. */
const KEPT_POINTS = 400;

/** What of a history outlasts the controller that heard it. */
export interface KeptHistory {
  /** Newest generation that told a step, and the last that it told; both 0: none did. */
  generation: number;
  step: number;
  stepHighest: number;
  tokensTotal: number;
  stride: number;
  points: StepsPoint[];
}

/**
 * What a job's steps have told so far: the last one, the curves, totals, and the pace. A step computed again after a failure
 * replaces its first telling: the run of steps that it stands in is told anew from there.
 */
export class TrainingHistory {
  last: StepCompleted | null = null;
  /** Tellings so far, repeats too: whether there is something new. */
  tellings = 0;
  /** Oldest telling first. */
  #told = new Map<number, StepCompleted>();
  #curve = new StepCurve(POINTS_MAX);
  #recent: { step: number; tokens: number; atMs: number }[] = [];
  #tokensSeen = 0;
  #highest = 0;
  /** Newest generation that told a step, and the last that it told. */
  #newest = { generation: 0, step: 0 };
  /** Of what was kept: agents repeat their steps to a new leader, and some of them are in it. */
  #kept = { generation: 0, step: 0 };

  /** Goes on from what was kept. */
  static from(kept: KeptHistory): TrainingHistory {
    const history = new TrainingHistory();
    history.#curve = new StepCurve(POINTS_MAX, kept.stride);
    for (const point of kept.points) history.#curve.add(point);
    history.#tokensSeen = kept.tokensTotal;
    history.#highest = kept.stepHighest;
    const { generation, step } = kept;
    history.#newest = { generation, step };
    history.#kept = { generation, step };
    return history;
  }

  /** What was kept tells of later steps than this one has heard. */
  isOlderThan({ generation, step }: KeptHistory): boolean {
    return !isBehind({ generation, step }, this.#newest);
  }

  /**
   * An agent that finds its controller again tells its steps anew, in order and before later ones. A step that is computed
   * again in its generation, since it was voted down, is told with another duration.
   */
  knows(telling: StepCompleted): boolean {
    const { last } = this;
    const { generation, step } = telling;
    if (last === null || generation > last.generation || (generation === last.generation && step > last.step))
      return false;
    const before = this.#told.get(Number(step));
    if (before === undefined || before.generation !== generation) return true; // long ago, or computed anew since
    return before.stepSeconds === telling.stepSeconds && before.applied === telling.applied;
  }

  add(step: StepCompleted, atMs: number): void {
    const number = Number(step.step);
    this.last = step;
    this.tellings += 1;
    this.#told.delete(number); // its new telling is the newest
    this.#told.set(number, step);
    if (this.#told.size > RECENT_STEPS) this.#told.delete(this.#told.keys().next().value!);
    const generation = Number(step.generation);
    if (!isBehind({ generation, step: number }, this.#kept)) this.#curve.add(pointOf(step, atMs));
    if (generation >= this.#newest.generation) this.#newest = { generation, step: number };
    if (number > this.#highest) {
      this.#highest = number;
      this.#tokensSeen += Number(step.tokens);
    }
    // A gap in time (recovery, a new generation) is no pace: start again behind it.
    const before = this.#recent.at(-1);
    if (before && (number !== before.step + 1 || atMs - before.atMs > 10 * 1000 * step.stepSeconds + 1000))
      this.#recent = [];
    this.#recent.push({ step: number, tokens: Number(step.tokens), atMs });
    if (this.#recent.length > PACE_STEPS) this.#recent.shift();
  }

  /** Tokens of distinct steps seen by this controller. */
  get tokensTotal(): number {
    return this.#tokensSeen;
  }

  /** Points of the loss curve, by step. */
  points(): { step: number; loss: number }[] {
    return this.curves().flatMap(({ step, loss }) => (loss === null ? [] : [{ step, loss }]));
  }

  /** Runs of steps, by their last step; at most POINTS_MAX. */
  curves(): StepsPoint[] {
    return this.#curve.points();
  }

  /** Newest generation that told a step; 0: none did. */
  get generation(): number {
    return this.#newest.generation;
  }

  /** What shall outlast this controller. */
  kept(): KeptHistory {
    const curve = this.#curve.thinned(KEPT_POINTS);
    return {
      ...this.#newest,
      stepHighest: this.#highest,
      tokensTotal: this.#tokensSeen,
      stride: curve.stride,
      points: curve.points(),
    };
  }

  /** By number, each as told last. */
  recentSteps(): StepCompleted[] {
    return [...this.#told.values()].sort((a, b) => Number(a.step - b.step));
  }

  /** Over the last steps without interruption; null before the second of them. */
  pace(): { tokensPerSecond: number; secondsPerStep: number } | null {
    const first = this.#recent[0];
    const last = this.#recent.at(-1);
    if (!first || !last || last.atMs <= first.atMs) return null;
    const seconds = (last.atMs - first.atMs) / 1000;
    const tokens = this.#recent.slice(1).reduce((sum, entry) => sum + entry.tokens, 0);
    return { tokensPerSecond: tokens / seconds, secondsPerStep: seconds / (this.#recent.length - 1) };
  }
}

/** Within a generation no step comes twice, and steps come in order. */
function isBehind(a: { generation: number; step: number }, b: { generation: number; step: number }): boolean {
  return a.generation < b.generation || (a.generation === b.generation && a.step <= b.step);
}

function pointOf(step: StepCompleted, atMs: number): StepsPoint {
  return {
    step: Number(step.step),
    steps: 1,
    atMs,
    loss: step.loss ?? null,
    gradNorm: step.gradNorm ?? null,
    learningRate: step.learningRate,
    tokens: Number(step.tokens),
    stepSeconds: step.stepSeconds,
    computeSeconds: step.computeSeconds,
    commWaitSeconds: step.commWaitSeconds,
    dataWaitSeconds: step.dataWaitSeconds,
    snapshotSeconds: step.snapshotSeconds,
    packFill: step.packFill,
    votedDown: step.applied ? 0 : 1,
  };
}
