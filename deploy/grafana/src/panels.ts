import { PanelBuilder as BarGauge } from "@grafana/grafana-foundation-sdk/bargauge";
import type { Builder } from "@grafana/grafana-foundation-sdk/cog";
import {
  BigValueColorMode,
  BigValueGraphMode,
  BigValueTextMode,
  LegendDisplayMode,
  LegendPlacement,
  ReduceDataOptionsBuilder,
  StackingConfigBuilder,
  StackingMode,
  TooltipDisplayMode,
  VisibilityMode,
  VizLegendOptionsBuilder,
  VizOrientation,
  VizTooltipOptionsBuilder,
} from "@grafana/grafana-foundation-sdk/common";
import {
  type Panel,
  ThresholdsConfigBuilder,
  ThresholdsMode,
} from "@grafana/grafana-foundation-sdk/dashboard";
import {
  PanelBuilder as Heatmap,
  HeatmapColorMode,
  HeatmapColorOptionsBuilder,
  YAxisConfigBuilder,
} from "@grafana/grafana-foundation-sdk/heatmap";
import { DataqueryBuilder, PromQueryFormat } from "@grafana/grafana-foundation-sdk/prometheus";
import { PanelBuilder as Stat } from "@grafana/grafana-foundation-sdk/stat";
import { PanelBuilder as Table } from "@grafana/grafana-foundation-sdk/table";
import { PanelBuilder as TimeSeries } from "@grafana/grafana-foundation-sdk/timeseries";
import type { Query } from "./query.js";

/** The data source is chosen in the dashboard; Grafana puts the choice in. */
export const DATASOURCE = { type: "prometheus", uid: "$datasource" };
const WIDTH = 24;

export interface PanelOptions {
  title: string;
  /** What it tells, and what to do about it. */
  about: string;
  queries: readonly Query[];
  /** Grafana's name: https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options/#unit. */
  unit?: string;
  decimals?: number;
  /** Columns of 24. */
  width?: number;
  height?: number;
  /** Shown instead of "No data". */
  noValue?: string;
  min?: number;
  max?: number;
  /** From which value on it is orange, and red. */
  limits?: readonly [orange: number, red: number];
}

/** What all kinds of panels share, so that it is set in one place. */
interface Shared extends Builder<Panel> {
  title(title: string): this;
  description(text: string): this;
  datasource(datasource: typeof DATASOURCE): this;
  span(width: number): this;
  height(height: number): this;
  unit(unit: string): this;
  decimals(decimals: number): this;
  min(min: number): this;
  max(max: number): this;
  noValue(text: string): this;
  thresholds(thresholds: ThresholdsConfigBuilder): this;
  withTarget(target: DataqueryBuilder): this;
  id(id: number): this;
}
export type AnyPanel = Builder<Panel> & { id(id: number): unknown };

function filled<P extends Shared>(panel: P, options: PanelOptions, over: "range" | "instant" | "table"): P {
  const {
    title,
    about,
    queries,
    unit,
    decimals,
    width = 12,
    height = 8,
    noValue,
    min,
    max,
    limits,
  } = options;
  panel.title(title).description(about).datasource(DATASOURCE);
  panel.span(Math.min(width, WIDTH)).height(height);
  if (unit !== undefined) panel.unit(unit);
  if (decimals !== undefined) panel.decimals(decimals);
  if (noValue !== undefined) panel.noValue(noValue);
  if (min !== undefined) panel.min(min);
  if (max !== undefined) panel.max(max);
  const steps = [{ value: null, color: "green" }];
  if (limits !== undefined) {
    const [orange, red] = limits;
    // Where little is bad, the limits come the other way round.
    if (orange < red) panel.thresholds(levels("green", [orange, "orange"], [red, "red"]));
    else panel.thresholds(levels("red", [red, "orange"], [orange, "green"]));
  } else panel.thresholds(new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(steps));
  for (const [index, [expr, legend]] of queries.entries()) {
    const target = new DataqueryBuilder().expr(expr).legendFormat(legend).refId(refId(index));
    if (over === "range") target.range();
    else target.instant();
    if (over === "table") target.format(PromQueryFormat.Table);
    panel.withTarget(target);
  }
  return panel;
}

const refId = (index: number) => String.fromCharCode("A".charCodeAt(0) + index);

function levels(base: string, ...steps: (readonly [number, string])[]): ThresholdsConfigBuilder {
  return new ThresholdsConfigBuilder()
    .mode(ThresholdsMode.Absolute)
    .steps([{ value: null, color: base }, ...steps.map(([value, color]) => ({ value, color }))]);
}

/** Lines over time. */
export function lines(options: PanelOptions): TimeSeries {
  return filled(new TimeSeries(), options, "range")
    .lineWidth(1)
    .fillOpacity(8)
    .showPoints(VisibilityMode.Auto)
    .tooltip(new VizTooltipOptionsBuilder().mode(TooltipDisplayMode.Multi))
    .legend(
      new VizLegendOptionsBuilder()
        .showLegend(true)
        .displayMode(LegendDisplayMode.List)
        .placement(LegendPlacement.Bottom),
    );
}

/** Parts of a whole over time. */
export function stacked(options: PanelOptions): TimeSeries {
  return lines(options)
    .fillOpacity(60)
    .lineWidth(0)
    .stacking(new StackingConfigBuilder().mode(StackingMode.Normal));
}

/** The newest number of each series; `text: "name"` shows the series' name instead. */
export function number(options: PanelOptions & { text?: "name" }): Stat {
  return filled(new Stat(), { width: 4, height: 4, ...options }, "instant")
    .reduceOptions(new ReduceDataOptionsBuilder().calcs(["lastNotNull"]))
    .graphMode(BigValueGraphMode.None)
    .colorMode(options.limits === undefined ? BigValueColorMode.None : BigValueColorMode.Value)
    .textMode(options.text === "name" ? BigValueTextMode.Name : BigValueTextMode.Auto);
}

/** Numbers of the whole range side by side. */
export function bars(options: PanelOptions): BarGauge {
  return filled(new BarGauge(), { min: 0, ...options }, "instant")
    .reduceOptions(new ReduceDataOptionsBuilder().calcs(["lastNotNull"]))
    .orientation(VizOrientation.Horizontal);
}

/** One row for each series, colour for its value: green from `min` on, red at `max`. */
export function heatmap({ min, max, ...options }: PanelOptions): Heatmap {
  // Grafana shows the diverging schemes upside down already: reverse() would make what is good red.
  const color = new HeatmapColorOptionsBuilder().mode(HeatmapColorMode.Scheme).scheme("RdYlGn").steps(64);
  if (min !== undefined) color.min(min);
  if (max !== undefined) color.max(max);
  return filled(new Heatmap(), options, "range")
    .calculate(false)
    .showValue(VisibilityMode.Never)
    .cellGap(1)
    .color(color)
    .yAxis(new YAxisConfigBuilder().unit("none"));
}

/** Series as rows, their labels as columns. */
export function table(options: PanelOptions): Table {
  return filled(new Table(), options, "table").withTransformation({
    id: "organize",
    options: { excludeByName: { Time: true } },
  });
}
