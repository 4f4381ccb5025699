import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";

const POINTS_MAX = 1_000;
const PACE_STEPS = 20;

/**
 * What a job's steps have told so far: the last one, the loss curve (thinned by halving, so that a long run keeps its
 * shape in bounded memory), totals, and the pace. A step computed again after a failure replaces its first telling.
 */
export class TrainingHistory {
  last: StepCompleted | null = null;
  #points = new Map<number, number>();
  #stride = 1;
  #recent: { step: number; tokens: number; atMs: number }[] = [];
  #tokensSeen = 0;
  #highest = 0;

  add(step: StepCompleted, atMs: number): void {
    const number = Number(step.step);
    this.last = step;
    if (number % this.#stride === 0 || number === 1) this.#points.set(number, step.loss);
    if (this.#points.size > POINTS_MAX) this.#thin();
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
    const points = [...this.#points].map(([step, loss]) => ({ step, loss })).sort((a, b) => a.step - b.step);
    const last = this.last;
    if (last && points.at(-1)?.step !== Number(last.step))
      points.push({ step: Number(last.step), loss: last.loss });
    return points;
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

  #thin(): void {
    this.#stride *= 2;
    for (const step of [...this.#points.keys()])
      if (step % this.#stride !== 0 && step !== 1) this.#points.delete(step);
  }
}
