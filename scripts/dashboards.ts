import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parse, stringify } from "yaml";
import { DASHBOARDS } from "../deploy/grafana/src/dashboards.js";

const DEPLOY = path.join(import.meta.dirname, "../../deploy");

/** What ships and is made from other files of this repository, by its place below deploy/: node dist/scripts/dashboards.js */
export function madeFiles(): Map<string, string> {
  const files = new Map<string, string>();
  for (const [name, dashboard] of Object.entries(DASHBOARDS))
    files.set(`grafana/dashboards/${name}.json`, `${JSON.stringify(dashboard, null, 2)}\n`);
  files.set("kubernetes/components/monitoring/rules.yaml", prometheusRule());
  return files;
}

/** The rules of deploy/prometheus as the resource of the Prometheus operator. */
function prometheusRule(): string {
  const groups = ["recording.yml", "alerts.yml"].flatMap(
    (name) => parse(readFileSync(path.join(DEPLOY, "prometheus", name), "utf8")).groups,
  );
  const rule = {
    apiVersion: "monitoring.coreos.com/v1",
    kind: "PrometheusRule",
    metadata: { name: "goku", labels: { "app.kubernetes.io/name": "goku-rules" } },
    spec: { groups },
  };
  return `# Made from deploy/prometheus/recording.yml and alerts.yml by \`make dashboards\`: change them there.\n${stringify(rule, { lineWidth: 0 })}`;
}

if (process.argv[1] === import.meta.filename)
  for (const [name, text] of madeFiles()) {
    const file = path.join(DEPLOY, name);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
