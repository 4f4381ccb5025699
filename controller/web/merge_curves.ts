import type { Curves, Step } from "./answers.js";

/** Points that a page keeps of one run; beyond, every second one goes. */
const POINTS_MAX = 4_000;

/** One point of the curves; seconds and tokens are sums over its `steps`. */
export type Point = { [K in keyof Curves]: Curves[K][number] };

export function pointsOf(curves: Curves): Point[] {
  const names = Object.keys(curves) as (keyof Curves)[];
  return curves.step.map((_, i) => Object.fromEntries(names.map((name) => [name, curves[name][i]])) as Point);
}

export function pointOfStep(step: Step, time: string): Point {
  return {
    step: step.step,
    steps: 1,
    time,
    loss: step.loss,
    grad_norm: step.grad_norm,
    learning_rate: step.learning_rate,
    tokens: step.tokens,
    step_seconds: step.step_seconds,
    compute_seconds: step.compute_seconds,
    comm_wait_seconds: step.comm_wait_seconds,
    data_wait_seconds: step.data_wait_seconds,
    snapshot_seconds: step.snapshot_seconds,
    pack_fill: step.pack_fill,
    voted_down: step.applied ? 0 : 1,
  };
}

/**
 * What is on show, and what a controller tells. It knows the steps since it leads, so that what it tells replaces what is
 * shown of the same steps and everything else stays: nothing that is on show goes when another controller takes over.
 */
export function mergePoints(shown: readonly Point[], told: readonly Point[]): Point[] {
  const first = told[0];
  const last = told.at(-1);
  if (first === undefined || last === undefined) return [...shown];
  const before = shown.filter(({ step }) => step <= first.step - first.steps);
  const after = shown.filter(({ step }) => step > last.step);
  return thinned([...before, ...told, ...after]);
}

/** A step as it happens. One that is computed again takes the place of its first telling. */
export function addPoint(shown: readonly Point[], point: Point): Point[] {
  const last = shown.at(-1);
  if (last === undefined || point.step > last.step) return thinned([...shown, point]);
  const at = shown.findIndex(({ step }) => step >= point.step);
  const replaced = shown[at]!;
  if (replaced.steps > 1) return [...shown]; // within a longer run, one step is not seen
  return shown.map((one, i) => (i === at ? point : one));
}

function thinned(points: Point[]): Point[] {
  return points.length <= POINTS_MAX
    ? points
    : points.filter((_, i) => i % 2 === 0 || i === points.length - 1);
}
