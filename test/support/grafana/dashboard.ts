import { readFileSync } from "node:fs";
import path from "node:path";

const FOLDER = path.resolve(import.meta.dirname, "../../../../deploy/grafana/dashboards");

/** What a test reads of a dashboard's JSON. */
export interface PanelJson {
  id: number;
  type: string;
  title: string;
  description?: string;
  datasource?: { type: string; uid: string };
  targets?: { refId: string; expr: string; legendFormat: string; range?: boolean; instant?: boolean }[];
  gridPos: { x: number; y: number; w: number; h: number };
  fieldConfig?: { defaults: { noValue?: string; unit?: string } };
}
export interface DashboardJson {
  uid: string;
  title: string;
  tags: string[];
  panels: PanelJson[];
  templating: {
    list: { name: string; type: string; query: string; multi?: boolean; includeAll?: boolean }[];
  };
  annotations: { list: { name: string; expr: string; textFormat: string }[] };
}

export function readDashboard(name: string): DashboardJson {
  return JSON.parse(readFileSync(path.join(FOLDER, `${name}.json`), "utf8")) as DashboardJson;
}

/** Every query of a dashboard, and where it stands. */
export interface Asked {
  where: string;
  /** Of a panel: its JSON. */
  panel: PanelJson | null;
  expr: string;
  legend: string;
  instant: boolean;
}

export function queriesOf(dashboard: DashboardJson): Asked[] {
  const panels = dashboard.panels.flatMap((panel) =>
    (panel.targets ?? []).map(({ refId, expr, legendFormat, instant }) => ({
      where: `${dashboard.title}: ${panel.title} ${refId}`,
      panel,
      expr,
      legend: legendFormat,
      instant: instant === true,
    })),
  );
  const annotations = dashboard.annotations.list.map(({ name, expr, textFormat }) => ({
    where: `${dashboard.title}: annotation ${name}`,
    panel: null,
    expr,
    legend: textFormat,
    instant: false,
  }));
  return [...panels, ...annotations];
}

/** `label_values(series, label)` of a variable. */
export function labelValues(query: string): { series: string; label: string } {
  const found = /^label_values\((.*), (\w+)\)$/.exec(query);
  if (found === null) throw new Error(`Cannot read the variable ${query}: want label_values(series, label)`);
  return { series: found[1]!, label: found[2]! };
}
