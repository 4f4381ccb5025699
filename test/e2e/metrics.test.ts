import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { CONTROLLER_METRICS, type MetricEntry, NODE_METRICS } from "../../job/metrics.js";
import { TestCluster, testJob } from "../faults/cluster.js";
import { type Exposed, readExposition } from "../support/exposition.js";
import { prometheusMissing, TestPrometheus } from "../support/prometheus.js";
import { until } from "../support/until.js";

const SHIPPED = path.resolve(import.meta.dirname, "../../../deploy/prometheus");

/** Metrics that this run gives no reason to have a series. */
const IDLE = new Set([
  "goku_audit_entries_total",
  "goku_previews_total",
  "goku_rank_peak_flops",
  "goku_signals_total",
  "goku_tls_certificate_expiry_timestamp_seconds",
  "goku_node_hardware_errors_total",
  // Of GPUs that NVML tells of: test/worker/agent/node_metrics.test.ts shows all of them.
  ...Object.keys(NODE_METRICS).filter((name) => name.startsWith("goku_gpu_")),
]);

async function scrape(url: string): Promise<Map<string, Exposed>> {
  const response = await fetch(url);
  assert.equal(response.status, 200, url);
  return readExposition(await response.text());
}

/** Names, types, help and labels are those of the catalogue, and what ought to have a series has one. */
function requireCatalogue(
  catalogue: Record<string, MetricEntry>,
  exposed: Map<string, Exposed>,
  where: string,
) {
  const own = [...exposed.keys()].filter((name) => name.startsWith("goku_"));
  assert.deepEqual(own.sort(), Object.keys(catalogue).sort(), where);
  for (const [name, { type, help, labels }] of Object.entries(catalogue)) {
    const found = exposed.get(name)!;
    assert.deepEqual([found.type, found.help], [type, help], name);
    if (found.series.length === 0) assert.ok(IDLE.has(name), `${where}: ${name} has no series`);
    for (const { labels: shown } of found.series) {
      const { le: _, ...rest } = shown;
      assert.deepEqual(Object.keys(rest).sort(), Object.keys(labels).sort(), `${where}: labels of ${name}`);
    }
  }
}

const value = (exposed: Map<string, Exposed>, name: string, labels: Record<string, string> = {}) =>
  exposed
    .get(name)!
    .series.filter(({ labels: shown }) => Object.entries(labels).every(([key, text]) => shown[key] === text))
    .map(({ value: each }) => each);

test("metrics: a job with a fault shows the whole catalogue, and so it stands in its record", {
  timeout: 600_000,
}, async (t) => {
  const cluster = await TestCluster.start({ nodes: 2 });
  const missing = prometheusMissing("prometheus");
  let prometheus: TestPrometheus | null = null;
  try {
    const { rest } = cluster.local;
    if (missing === false)
      prometheus = await TestPrometheus.start(path.join(cluster.folder, "prometheus"), SHIPPED, rest);
    const job = await testJob(cluster.folder, ["train.steps=2000", "checkpoint.every_steps=20"]);
    await cluster.submit(job);
    await cluster.replicated(30);
    const [pid] = await cluster.pidsOn(await cluster.nodeOf(2));
    process.kill(pid!, "SIGKILL");
    const last = Math.max(...cluster.record.losses.keys());
    await cluster.follow(({ losses }) => losses.has(last + 30));

    const targets = (await (await fetch(`${rest}/v1/prometheus/targets`)).json()) as {
      targets: [string];
      labels: { __scheme__: string; cluster: string; node: string };
    }[];
    assert.deepEqual(targets.map(({ labels }) => labels.node).sort(), ["node-a", "node-b"]);
    assert.ok(targets.every(({ labels }) => labels.cluster === "goku" && labels.__scheme__ === "http"));
    const nodes: Map<string, Exposed>[] = [];
    for (const {
      targets: [address],
    } of targets)
      nodes.push(await scrape(`http://${address}/metrics`));
    const controller = await scrape(`${rest}/metrics`);
    requireCatalogue(CONTROLLER_METRICS, controller, "controller");
    for (const node of nodes) requireCatalogue(NODE_METRICS, node, "agent");

    await t.test("the controller's figures are those of the run", () => {
      const steps = cluster.record.steps.length;
      assert.ok(value(controller, "goku_steps_completed_total")[0]! >= steps);
      assert.deepEqual(value(controller, "goku_recovery_seconds", { rung: "process" }).at(-1), 1);
      assert.deepEqual(value(controller, "goku_incidents_total", { code: "RANK_DIED" }), [1]);
      assert.deepEqual(value(controller, "goku_job_phase", { phase: "RUNNING" }), [1]);
      for (const window of ["total", "hour"]) {
        const [ettr] = value(controller, "goku_job_ettr_ratio", { window });
        assert.ok(ettr! > 0 && ettr! < 1, `${window} ${ettr}`);
      }
      const sections = controller.get("goku_train_section_seconds_total")!.series;
      const told = sections.reduce((sum, { value: seconds }) => sum + seconds, 0);
      const [whole] = controller
        .get("goku_train_step_seconds")!
        .series.filter(({ name }) => name.endsWith("_sum"));
      assert.ok(told > 0.8 * whole!.value && told <= 1.001 * whole!.value, `${told} of ${whole!.value} s`);
      const waits = controller.get("goku_train_wait_seconds_total")!.series;
      const waited = waits.reduce((sum, { value: seconds }) => sum + seconds, 0);
      const [communication] = value(controller, "goku_train_section_seconds_total", {
        section: "communication",
      });
      assert.ok(Math.abs(waited / communication! - 1) < 1e-6, "each wait is one of a collective");
      for (const kind of ["all_gather", "reduce_scatter", "all_to_all", "vote"])
        assert.ok(value(controller, "goku_train_wait_seconds_total", { collective: kind })[0]! > 0, kind);
    });

    await t.test("each rank is shown by its own agent, once", () => {
      const ranks = nodes.flatMap((node) =>
        node.get("goku_rank_step")!.series.map(({ labels }) => labels.rank),
      );
      assert.deepEqual(ranks.sort(), ["0", "1", "2", "3"]);
      assert.ok(!controller.has("goku_rank_slowness_ratio"));
      const flops = nodes.flatMap((node) => value(node, "goku_rank_model_flops_total"));
      assert.ok(flops.every((count) => count > 0));
    });

    await t.test("Prometheus finds the agents, and evaluates every rule", { skip: missing }, () =>
      checkPrometheus(prometheus!, job.name),
    );
    await cluster.client.call("stopJob", { name: job.name });
    await cluster.follow();
    assert.equal(cluster.record.phase, "STOPPED");
    requireRecord(cluster, path.join(cluster.folder, "run"));
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${cluster.logs}`, { cause: error });
  } finally {
    await prometheus?.stop();
    await cluster.stop();
  }
});

async function checkPrometheus(prometheus: TestPrometheus, job: string): Promise<void> {
  const up = async () =>
    (await prometheus.query("up == 1")).map(({ metric }) => metric.node ?? metric.job).sort();
  await until(async () => (await up()).length === 3);
  assert.deepEqual(await up(), ["goku-controller", "node-a", "node-b"]);
  await until(async () => (await prometheus.query("job:goku_train_tokens:rate5m > 0")).length > 0);
  await until(async () => (await prometheus.rules()).every(({ health }) => health !== "unknown"));
  const rules = await prometheus.rules();
  assert.ok(rules.length >= 35, `${rules.length} rules`);
  for (const { name, query, health, lastError } of rules) {
    assert.equal(health, "ok", `${name}: ${lastError}`);
    await prometheus.query(query);
  }
  const [tokens] = await prometheus.query("job:goku_train_tokens:rate5m");
  assert.deepEqual([tokens?.metric.job, tokens?.metric.cluster], [job, "goku"]);
  const parts = await prometheus.query("sum(job_section:goku_train_section:ratio5m)");
  assert.ok(parts[0]!.value > 0.8 && parts[0]!.value <= 1.01, `sections are ${parts[0]!.value} of a step`);
  const ofRanks = () => prometheus.query("job_node_rank:goku_rank_compute_seconds:rate5m");
  await until(async () => (await ofRanks()).length >= 4); // of each agent two readings make a rate
  const ranks = await ofRanks();
  assert.deepEqual(ranks.map(({ metric }) => metric.rank).sort(), ["0", "1", "2", "3"]);
  assert.ok(ranks.every(({ metric }) => /^node-[ab]$/.test(metric.node ?? "")));
}

/** metrics.jsonl has each step once, in order, with the loss that counts. */
function requireRecord(cluster: TestCluster, folder: string): void {
  const text = readFileSync(path.join(folder, "metrics.jsonl"), "utf8");
  const lines = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss: number });
  const told = [...cluster.record.losses.keys()].sort((a, b) => a - b);
  assert.deepEqual(
    lines.map(({ step }) => step),
    told,
  );
  for (const { step, loss } of lines) assert.equal(loss, cluster.record.losses.get(step));
}
