import {
  AnnotationQueryBuilder,
  type Dashboard,
  DashboardBuilder,
  DashboardCursorSync,
  DashboardLinkBuilder,
  DashboardLinkType,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  RowBuilder,
  VariableRefresh,
  VariableSort,
} from "@grafana/grafana-foundation-sdk/dashboard";
import { type AnyPanel, DATASOURCE } from "./panels.js";
import { CLUSTER, JOB } from "./query.js";

export interface Row {
  title: string;
  panels: readonly AnyPanel[];
}
export interface DashboardOptions {
  uid: string;
  title: string;
  about: string;
  /** One job, or any number of them. */
  jobs: "one" | "any" | "none";
  /** Whether nodes can be chosen. */
  nodes: boolean;
  rows: readonly Row[];
}

/** Series that are there whenever there is a value to choose. */
const VALUES = {
  cluster: "label_values(goku_leader, cluster)",
  job: `label_values(goku_job_started_timestamp_seconds{${CLUSTER}}, job)`,
  node: `label_values(goku_node_slots{${CLUSTER}}, node)`,
} as const;

function variable(name: keyof typeof VALUES, takesAll: boolean): QueryVariableBuilder {
  const query = VALUES[name];
  const built = new QueryVariableBuilder(name)
    .label(name)
    .query(query)
    .definition(query)
    .datasource(DATASOURCE)
    .refresh(VariableRefresh.OnTimeRangeChanged)
    .sort(VariableSort.NaturalAsc);
  return takesAll ? built.multi(true).includeAll(true).allValue(".*") : built;
}

/** Marks over all panels of time. */
function annotation(name: string, color: string, expr: string, text: string): AnnotationQueryBuilder {
  return new AnnotationQueryBuilder()
    .name(name)
    .datasource(DATASOURCE)
    .enable(true)
    .iconColor(color)
    .expr(expr)
    .step("15s")
    .titleFormat(name)
    .textFormat(text);
}

/** In the minute before; a counter that begins with its first event has no increase. */
function incidentOver(selector: string): string {
  const counter = `goku_incidents_total{${selector}}`;
  return `sum by (job, code) (increase(${counter}[1m])) > 0 or sum by (job, code) (${counter} unless ${counter} offset 1m)`;
}

export function frame({ uid, title, about, jobs, nodes, rows }: DashboardOptions): Dashboard {
  const dashboard = new DashboardBuilder(`Goku / ${title}`)
    .uid(uid)
    .description(about)
    .tags(["goku"])
    .time({ from: "now-6h", to: "now" })
    .refresh("30s")
    .timezone("browser")
    .tooltip(DashboardCursorSync.Crosshair)
    .readonly()
    .withVariable(
      new DatasourceVariableBuilder("datasource").label("Prometheus").type(DATASOURCE.type).multi(false),
    )
    .withVariable(variable("cluster", false));
  if (jobs !== "none") dashboard.withVariable(variable("job", jobs === "any"));
  if (nodes) dashboard.withVariable(variable("node", true));
  // Where jobs are chosen, those of others would mark curves that they have nothing to do with.
  const over = incidentOver(jobs === "none" ? CLUSTER : JOB);
  dashboard.annotation(annotation("Incident over", "red", over, "{{job}}: {{code}}"));
  if (jobs !== "none") {
    dashboard.annotation(
      annotation("Recovering", "orange", `max by (job) (goku_incidents_open{${JOB}}) > 0`, "{{job}}"),
    );
    dashboard.annotation(
      annotation("Generation", "blue", `changes(goku_job_generation{${JOB}}[1m]) > 0`, "{{job}}"),
    );
  }
  dashboard.link(
    new DashboardLinkBuilder("Goku")
      .type(DashboardLinkType.Dashboards)
      .tags(["goku"])
      .includeVars(true)
      .keepTime(true),
  );
  // Numbered in order: links and screenshots of a panel go by its id.
  let id = 1;
  for (const row of rows) {
    dashboard.withRow(new RowBuilder(row.title).id(id++));
    for (const panel of row.panels) {
      panel.id(id++);
      dashboard.withPanel(panel);
    }
  }
  return dashboard.build();
}
