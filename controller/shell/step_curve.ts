import type { StepsPoint } from "../api/controller_api.js";

/**
 * Runs of steps in bounded memory: all runs are of one length, which doubles when there are too many, so that a long curve
 * keeps its shape. Step 1 is a run of its own, the first loss tells much. A step told anew begins its run anew.
 */
export class StepCurve {
  /** By number of the run. */
  readonly #runs = new Map<number, StepsPoint>();
  readonly #pointsMax: number;
  #stride: number;

  constructor(pointsMax: number, stride = 1) {
    this.#pointsMax = pointsMax;
    this.#stride = stride;
  }

  /** Steps in a run. */
  get stride(): number {
    return this.#stride;
  }

  /** By their last step. */
  points(): StepsPoint[] {
    return [...this.#runs].sort(([a], [b]) => a - b).map(([, point]) => point);
  }

  add(point: StepsPoint): void {
    const run = point.step === 1 ? 0 : Math.ceil(point.step / this.#stride);
    const before = this.#runs.get(run);
    this.#runs.set(run, before === undefined || point.step <= before.step ? point : joined(before, point));
    while (this.#runs.size > this.#pointsMax) this.#thin();
  }

  /** The same with fewer points. */
  thinned(pointsMax: number): StepCurve {
    const thin = new StepCurve(pointsMax, this.#stride);
    for (const point of this.points()) thin.add(point);
    return thin;
  }

  #thin(): void {
    const before = this.points();
    this.#stride *= 2;
    this.#runs.clear();
    for (const point of before) this.add(point);
  }
}

/** Sums of what adds up, the later step's values of what does not. */
function joined(a: StepsPoint, b: StepsPoint): StepsPoint {
  return {
    ...b,
    loss: b.loss ?? a.loss,
    gradNorm: b.gradNorm ?? a.gradNorm,
    steps: a.steps + b.steps,
    tokens: a.tokens + b.tokens,
    stepSeconds: a.stepSeconds + b.stepSeconds,
    computeSeconds: a.computeSeconds + b.computeSeconds,
    commWaitSeconds: a.commWaitSeconds + b.commWaitSeconds,
    dataWaitSeconds: a.dataWaitSeconds + b.dataWaitSeconds,
    snapshotSeconds: a.snapshotSeconds + b.snapshotSeconds,
    votedDown: a.votedDown + b.votedDown,
  };
}
