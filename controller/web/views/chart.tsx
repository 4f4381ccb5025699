import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import type { Mark } from "../story.js";
import { colour, onColours } from "../theme.js";

const HEIGHT = 210;
const CURSOR = uPlot.sync("steps");

export interface Series {
  name: string;
  /** Name of a custom property. */
  colour: string;
  values: (number | null)[];
  width: number;
  isFilled?: boolean;
}

interface ChartProps {
  title: string;
  steps: number[];
  series: Series[];
  marks: readonly Mark[];
  format: (value: number | null) => string;
  /** What a reader who cannot see it is told. */
  summary: string;
  isLog?: boolean;
  isStacked?: boolean;
  fromZero?: boolean;
  children?: ComponentChildren;
}

/** One chart over steps. Its figures are in the legend: of the step under the cursor, or of the last one. */
export function Chart(props: ChartProps) {
  const { title, steps, series, marks, summary, format, isLog = false, children } = props;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const [hover, setHover] = useState<number | null>(null);
  const [colours, setColours] = useState(0);
  const isEmpty = steps.length === 0;
  useEffect(() => onColours(() => setColours((count) => count + 1)), []);
  useEffect(() => {
    if (box.current === null || isEmpty) return;
    const made = new uPlot(
      optionsOf(latest, setHover, box.current.clientWidth),
      dataOf(latest.current),
      box.current,
    );
    plot.current = made;
    const sizes = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry!.contentRect.width);
      if (width > 0 && width !== made.width) made.setSize({ width, height: HEIGHT });
    });
    sizes.observe(box.current);
    return () => {
      sizes.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [isEmpty, isLog, colours]);
  useEffect(() => plot.current?.setData(dataOf(latest.current)), [series, marks]);
  const at = hover !== null && hover < steps.length ? hover : steps.length - 1;
  return (
    <figure class="card chart">
      <figcaption>
        <span class="chart-title">{title}</span>
        <span class="visually-hidden">: {summary}</span>
        {children}
      </figcaption>
      {isEmpty ? (
        <p class="nothing">No step has been completed yet</p>
      ) : (
        <div ref={box} class="plot" aria-hidden="true" />
      )}
      {!isEmpty && (
        <p class="legend" aria-hidden="true">
          <span class="muted">step {steps[at]}</span>
          {series.map(({ name, colour: key, values }) => (
            <span key={name}>
              <i class={`key ${key.slice(2)}`} />
              {name} <b>{format(values[at] ?? null)}</b>
            </span>
          ))}
        </p>
      )}
    </figure>
  );
}

/** Stacked series are drawn as sums, the top one first, so that each hides what is below its own part. */
function dataOf({ steps, series, isStacked = false }: ChartProps): uPlot.AlignedData {
  if (!isStacked) return [steps, ...series.map(({ values }) => values)];
  const sums = new Array<number>(steps.length).fill(0);
  const stacked = series.map(({ values }) => values.map((value, i) => (sums[i] = sums[i]! + (value ?? 0))));
  return [steps, ...stacked.reverse()];
}

function optionsOf(
  latest: { current: ChartProps },
  onHover: (at: number | null) => void,
  width: number,
): uPlot.Options {
  const { series, isLog = false, isStacked = false, fromZero = false, format } = latest.current;
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--grid"), width: 1 },
    ticks: { show: false },
  };
  const ordered = isStacked ? [...series].reverse() : series;
  return {
    width,
    height: HEIGHT,
    padding: [10, 12, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: CURSOR.key }, y: false, points: { size: 6 } },
    scales: {
      x: { time: false },
      y: {
        distr: isLog ? 3 : 1,
        ...(fromZero && {
          range: (_plot: uPlot, _min: number, max: number): uPlot.Range.MinMax => [
            0,
            max > 0 ? 1.08 * max : 1,
          ],
        }),
      },
    },
    axes: [
      { ...axis, space: 60, size: 28 },
      {
        ...axis,
        size: 62,
        values: (_plot, splits) => splits.map((value) => (value === null ? "" : short(format(value)))),
      },
    ],
    series: [
      {},
      ...ordered.map(({ name, colour: key, width: line, isFilled = isStacked }) => ({
        label: name,
        stroke: colour(key),
        width: line,
        ...(isFilled && { fill: isStacked ? colour(key) : `${colour(key)}22` }),
        points: { show: (plot: uPlot) => plot.data[0].length < 2 },
      })),
    ],
    hooks: {
      draw: [(plot) => drawMarks(plot, latest.current.marks)],
      setCursor: [(plot) => onHover(plot.cursor.idx ?? null)],
    },
  };
}

/** Axis labels are few characters wide. */
function short(text: string): string {
  return text.replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");
}

/** A dashed line where something went wrong, a plain one where a later run goes on. */
function drawMarks(plot: uPlot, marks: readonly Mark[]): void {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  ctx.save();
  for (const { step, kind } of marks) {
    const x = Math.round(plot.valToPos(step, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = colour(kind === "incident" ? "--bad" : "--accent");
    ctx.lineWidth = ratio;
    ctx.setLineDash(kind === "incident" ? [4 * ratio, 3 * ratio] : []);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x - 4 * ratio, bbox.top);
    ctx.lineTo(x + 4 * ratio, bbox.top);
    ctx.lineTo(x, bbox.top + 6 * ratio);
    ctx.fill();
  }
  ctx.restore();
}
