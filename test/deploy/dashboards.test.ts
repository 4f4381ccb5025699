import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { collectDefaultMetrics, Registry } from "prom-client";
import { parse } from "yaml";
import { DASHBOARDS } from "../../deploy/grafana/src/dashboards.js";
import { DCGM_METRICS, NO_EXPORTER } from "../../deploy/grafana/src/gpu.js";
import { CONTROLLER_METRICS, type MetricEntry, NODE_METRICS } from "../../job/metrics.js";
import { madeFiles } from "../../scripts/dashboards.js";
import { labelValues, queriesOf, readDashboard } from "../support/grafana/dashboard.js";
import { listedLabels, selectorsOf } from "../support/grafana/selectors.js";

const DEPLOY = "deploy";
const NAMES = Object.keys(DASHBOARDS);
const dashboards = NAMES.map(readDashboard);

/** Metric -> labels that its series have in Prometheus. */
function knownMetrics(): Map<string, Set<string>> {
  const known = new Map<string, Set<string>>();
  const add = (metrics: Record<string, MetricEntry>, target: string[]) => {
    for (const [name, { type, labels }] of Object.entries(metrics)) {
      const own = [...Object.keys(labels), ...target];
      if (type !== "histogram") known.set(name, new Set(own));
      else for (const end of ["bucket", "sum", "count"]) known.set(`${name}_${end}`, new Set([...own, "le"]));
    }
  };
  add(CONTROLLER_METRICS, ["cluster", "instance"]);
  add(NODE_METRICS, ["cluster", "instance", "node"]);
  const { groups } = parse(readFileSync(`${DEPLOY}/prometheus/recording.yml`, "utf8"));
  // Its name begins with the labels that are left: `job_node_rank:...`, of a cluster each.
  for (const { record } of groups.flatMap(({ rules }: { rules: object[] }) => rules))
    known.set(record, new Set(["cluster", ...record.split(":")[0].split("_")]));
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  for (const { name } of registry.getMetricsAsArray()) known.set(name, new Set(["cluster", "instance"]));
  for (const name of DCGM_METRICS)
    known.set(name, new Set(["gpu", "Hostname", "pod", "exported_pod", "node", "cluster"]));
  known.set("up", new Set(["cluster", "instance", "node", "job"]));
  return known;
}

test("what ships is what the sources make: run `make dashboards`", () => {
  const made = madeFiles();
  for (const [name, text] of made)
    assert.equal(readFileSync(path.join(DEPLOY, name), "utf8"), text, `${name} is of another state`);
  const shipped = readdirSync(`${DEPLOY}/grafana/dashboards`).map((file) => `grafana/dashboards/${file}`);
  assert.deepEqual(
    shipped.filter((file) => !made.has(file)),
    [],
    "no source makes these",
  );
});

test("a query's metrics are found, and functions, labels and durations are none", () => {
  const query =
    'sum by (job, le) (rate(goku_a_bucket{cluster="$cluster", job=~"x{y}"}[5m])) / on (cluster) group_left () job:goku_b:rate5m > 0 or vector(1e3) unless goku_c offset 1m';
  assert.deepEqual(selectorsOf(query), [
    { metric: "goku_a_bucket", labels: ["cluster", "job"] },
    { metric: "job:goku_b:rate5m", labels: [] },
    { metric: "goku_c", labels: [] },
  ]);
  assert.deepEqual(listedLabels(query), ["job", "le", "cluster"]);
});

test("what has a job as label is shown of the jobs that are chosen, where jobs can be chosen", () => {
  const known = knownMetrics();
  let looked = 0;
  for (const dashboard of dashboards) {
    if (!dashboard.templating.list.some(({ name }) => name === "job")) continue;
    for (const { where, expr } of queriesOf(dashboard))
      for (const { metric, labels } of selectorsOf(expr)) {
        // The job of `up` is Prometheus's own.
        if (metric === "up" || !known.get(metric)?.has("job")) continue;
        assert.ok(labels.includes("job"), `${where}: ${metric} of all jobs`);
        looked += 1;
      }
  }
  assert.ok(looked > 50, `${looked} selectors`);
});

test("panels, variables and annotations use metrics that something emits, and labels that they have", () => {
  const known = knownMetrics();
  for (const dashboard of dashboards) {
    const variables = dashboard.templating.list.filter(({ type }) => type === "query");
    const all = [
      ...queriesOf(dashboard),
      ...variables.map(({ name, query }) => ({
        where: `${dashboard.title}: $${name}`,
        expr: labelValues(query).series,
      })),
    ];
    for (const { where, expr } of all) {
      const selectors = selectorsOf(expr);
      assert.ok(selectors.length > 0, `${where} reads no metric: ${expr}`);
      const has = new Set<string>();
      for (const { metric, labels } of selectors) {
        const own = known.get(metric);
        assert.ok(
          own,
          `${where}: nothing emits ${metric}; add it to job/metrics.ts or recording.yml, or leave it out`,
        );
        for (const label of labels) assert.ok(own.has(label), `${where}: ${metric} has no label ${label}`);
        for (const label of own) has.add(label);
      }
      for (const label of listedLabels(expr))
        assert.ok(has.has(label), `${where}: no series with a label ${label}`);
    }
  }
});

test("every panel says what it tells, of whose cluster, and stands in its row alone", () => {
  for (const dashboard of dashboards) {
    const ids = dashboard.panels.map(({ id }) => id);
    assert.deepEqual(ids, [...new Set(ids)], `${dashboard.title}: ids`);
    const titles = dashboard.panels.map(({ title }) => title);
    assert.deepEqual(titles, [...new Set(titles)], `${dashboard.title}: titles`);
    const taken = new Set<string>();
    for (const { type, title, description, datasource, targets, gridPos } of dashboard.panels) {
      const where = `${dashboard.title}: ${title}`;
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          assert.ok(
            x < 24 && !taken.has(`${x} ${y}`),
            `${where} lies over another panel, or beside the page`,
          );
          taken.add(`${x} ${y}`);
        }
      if (type === "row") continue;
      assert.ok(description!.length > 5, where);
      for (const [page] of description!.matchAll(/docs\/[\w-]+\.md/g))
        assert.ok(existsSync(page), `${where}: ${page}`);
      assert.deepEqual(datasource, { type: "prometheus", uid: "$datasource" }, where);
      assert.ok(targets!.length > 0, where);
      for (const { expr } of targets!) assert.match(expr, /cluster="\$cluster"/, where);
    }
  }
});

test("each variable of a dashboard is used in it, and there is no other", () => {
  for (const dashboard of dashboards) {
    const names = dashboard.templating.list.map(({ name }) => name).filter((name) => name !== "datasource");
    const text = queriesOf(dashboard)
      .map(({ expr }) => expr)
      .join("\n");
    const used = new Set([...text.matchAll(/\$([a-z]\w*)/g)].map((match) => match[1]!));
    assert.deepEqual([...used].sort(), names.sort(), dashboard.title);
  }
});

test("the dashboard of a job shows one job, the others any number", () => {
  const takesAll = (uid: string) =>
    dashboards.find((one) => one.uid === uid)?.templating.list.find(({ name }) => name === "job")?.includeAll;
  assert.deepEqual(NAMES.map(takesAll), [false, true, true, undefined]);
});

test("panels of GPUs say why they are empty where there is no exporter", () => {
  const ours = dashboards
    .flatMap(({ panels }) => panels)
    .filter(({ targets }) => targets?.some(({ expr }) => expr.includes("DCGM_")));
  const shown = new Set(
    ours.flatMap(({ targets }) => targets!.flatMap(({ expr }) => expr.match(/DCGM_\w+/g) ?? [])),
  );
  assert.deepEqual([...shown].sort(), [...DCGM_METRICS].sort());
  for (const { title, fieldConfig } of ours) assert.equal(fieldConfig?.defaults.noValue, NO_EXPORTER, title);
  const [page] = NO_EXPORTER.match(/docs\/[\w-]+\.md/)!;
  assert.match(readFileSync(page, "utf8"), /DCGM/);
});

test("Grafana's own files and the ConfigMaps name every dashboard and the data source", () => {
  const { datasources } = parse(readFileSync(`${DEPLOY}/grafana/provisioning/datasources/goku.yaml`, "utf8"));
  assert.deepEqual(
    datasources.map(({ type }: { type: string }) => type),
    ["prometheus"],
  );
  const { global } = parse(readFileSync(`${DEPLOY}/prometheus/prometheus.yml`, "utf8"));
  assert.equal(datasources[0].jsonData.timeInterval, global.scrape_interval);
  const { providers } = parse(readFileSync(`${DEPLOY}/grafana/provisioning/dashboards/goku.yaml`, "utf8"));
  const page = readFileSync("docs/dashboards.md", "utf8");
  assert.ok(page.includes(providers[0].options.path), "docs/dashboards.md says where the JSON goes");
  const { configMapGenerator } = parse(readFileSync(`${DEPLOY}/grafana/kustomization.yaml`, "utf8"));
  assert.deepEqual(
    configMapGenerator.flatMap(({ files }: { files: string[] }) => files).sort(),
    NAMES.map((name) => `dashboards/${name}.json`).sort(),
  );
  for (const [index, { uid, tags }] of dashboards.entries()) {
    assert.equal(uid, NAMES[index]);
    assert.deepEqual(tags, ["goku"]);
    assert.ok(page.includes(uid), `docs/dashboards.md does not speak of ${uid}`);
  }
});
