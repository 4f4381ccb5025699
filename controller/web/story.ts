import type { Checkpoint, Incident, Job } from "./answers.js";
import type { Point } from "./merge_curves.js";

/** What happened at a step, for the charts. */
export interface Mark {
  step: number;
  kind: "incident" | "resume";
  text: string;
}

/** All runs of one name, told as one: a run goes on where the one before it was left, or begins anew. */
export interface Story {
  points: Point[];
  incidents: Incident[];
  /** Newest first. */
  checkpoints: Checkpoint[];
  marks: Mark[];
  /** Where each run began: steps before belong to the runs before it. */
  runs: { job: Job; firstStep: number | null }[];
}

export interface RunFacts {
  /** By job id. */
  curves: ReadonlyMap<string, Point[]>;
  incidents: ReadonlyMap<string, Incident[]>;
  checkpoints: ReadonlyMap<string, Checkpoint[]>;
}

export function storyOf(runs: readonly Job[], known: RunFacts): Story {
  let points: Point[] = [];
  const marks: Mark[] = [];
  const told: Story["runs"] = [];
  for (const job of runs) {
    const own = known.curves.get(job.id) ?? [];
    const first = own[0];
    const firstStep = first === undefined ? null : first.step - first.steps + 1;
    if (first !== undefined && firstStep !== null) {
      points = [...points.filter(({ step }) => step < firstStep), ...own];
      if (told.length > 0 && firstStep > 1)
        marks.push({
          step: firstStep,
          kind: "resume",
          text: `run ${told.length + 1} goes on from step ${firstStep - 1}`,
        });
    }
    told.push({ job, firstStep });
  }
  const incidents = runs.flatMap(({ id }) => known.incidents.get(id) ?? []);
  for (const { step_before: step, what } of incidents) marks.push({ step, kind: "incident", text: what });
  const byUri = new Map(
    runs.flatMap(({ id }) => known.checkpoints.get(id) ?? []).map((one) => [one.uri, one]),
  );
  const checkpoints = [...byUri.values()].sort((a, b) => b.generation - a.generation || b.step - a.step);
  return { points, incidents, checkpoints, marks: marks.sort((a, b) => a.step - b.step), runs: told };
}
