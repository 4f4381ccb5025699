import { useMemo, useState } from "preact/hooks";
import { compact, duration, loss as lossText } from "../format.js";
import { groupPoints } from "../group_points.js";
import type { Point } from "../merge_curves.js";
import type { Story } from "../story.js";
import { Chart, type Series } from "./chart.js";

/** Weight of what was before in the smooth curve of the loss. */
const SMOOTH = 0.9;
/** Points of the curves of times: about one for each three pixels. */
const GROUPS_MAX = 120;

/** Loss, throughput, and what a step's time goes into, over steps; they share one cursor. */
export function Charts({ story }: { story: Story }) {
  const { points, marks } = story;
  const [isLog, setLog] = useState(false);
  const steps = useMemo(() => points.map(({ step }) => step), [points]);
  const loss = useMemo(() => lossSeries(points), [points]);
  const groups = useMemo(() => groupPoints(points, GROUPS_MAX), [points]);
  const groupSteps = useMemo(() => groups.map(({ step }) => step), [groups]);
  const pace = useMemo(() => paceSeries(groups), [groups]);
  const sections = useMemo(() => sectionSeries(groups), [groups]);
  const told = points.length > 0;
  return (
    <div class="charts">
      <Chart
        title="Loss"
        steps={steps}
        series={loss}
        marks={marks}
        isLog={isLog}
        format={lossText}
        summary={
          told ? `from ${lossText(points[0]!.loss)} to ${lossText(points.at(-1)!.loss)}` : "no step yet"
        }
      >
        <button type="button" class="quiet" aria-pressed={isLog} onClick={() => setLog(!isLog)}>
          log scale
        </button>
      </Chart>
      <Chart
        title="Throughput"
        steps={groupSteps}
        series={pace}
        marks={marks}
        fromZero
        format={(value) => `${compact(value)}/s`}
        summary={told ? `now ${compact(pace[0]!.values.at(-1) ?? null)} tokens a second` : "no step yet"}
      />
      <Chart
        title="Time of a step"
        steps={groupSteps}
        series={sections}
        marks={marks}
        fromZero
        isStacked
        format={duration}
        summary={told ? sectionsSummary(sections) : "no step yet"}
      />
    </div>
  );
}

function lossSeries(points: readonly Point[]): Series[] {
  let before: number | null = null;
  const smooth = points.map(({ loss }) => {
    if (loss === null) return null;
    before = before === null ? loss : SMOOTH * before + (1 - SMOOTH) * loss;
    return before;
  });
  return [
    { name: "loss", colour: "--loss-pale", values: points.map(({ loss }) => loss), width: 1 },
    { name: "smooth", colour: "--loss", values: smooth, width: 2 },
  ];
}

function paceSeries(points: readonly Point[]): Series[] {
  const values = points.map(({ tokens, step_seconds: seconds }) =>
    seconds ? (tokens ?? 0) / seconds : null,
  );
  return [{ name: "tokens/s", colour: "--pace", values, width: 1.5, isFilled: true }];
}

/** Seconds a step, mean over each point's steps; "other" is what no section claims. */
function sectionSeries(points: readonly Point[]): Series[] {
  const of = (name: "compute_seconds" | "comm_wait_seconds" | "data_wait_seconds" | "snapshot_seconds") =>
    points.map((point) => (point[name] ?? 0) / point.steps);
  const parts: Series[] = [
    { name: "compute", colour: "--compute", values: of("compute_seconds"), width: 1 },
    { name: "communication", colour: "--communication", values: of("comm_wait_seconds"), width: 1 },
    { name: "data", colour: "--data", values: of("data_wait_seconds"), width: 1 },
    { name: "snapshot", colour: "--snapshot", values: of("snapshot_seconds"), width: 1 },
  ];
  const other = points.map((point, i) => {
    const claimed = parts.reduce((sum, { values }) => sum + (values[i] ?? 0), 0);
    return Math.max(0, (point.step_seconds ?? 0) / point.steps - claimed);
  });
  return [...parts, { name: "other", colour: "--other", values: other, width: 1 }];
}

function sectionsSummary(sections: readonly Series[]): string {
  return sections.map(({ name, values }) => `${name} ${duration(values.at(-1) ?? null)}`).join(", ");
}
