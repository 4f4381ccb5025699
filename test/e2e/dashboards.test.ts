import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { DASHBOARDS } from "../../deploy/grafana/src/dashboards.js";
import { TestCluster, testJob } from "../faults/cluster.js";
import { credentialsOf, makeCredentials } from "../support/credentials.js";
import { type Asked, labelValues, queriesOf, readDashboard } from "../support/grafana/dashboard.js";
import { DcgmExporter } from "../support/grafana/dcgm_exporter.js";
import { prometheusMissing, type Sample, TestPrometheus } from "../support/prometheus.js";
import { until } from "../support/until.js";

const SHIPPED = path.resolve(import.meta.dirname, "../../../deploy/prometheus");

/** What the agents are told that a slot can do. A CPU has no figure of its own: one that the ranks cannot reach. */
const PEAK_TFLOPS = 1;

/** Grafana's variables as it puts them into a query. */
function filled(expr: string, values: Readonly<Record<string, string>>): string {
  const own = { ...values, __rate_interval: "15s", __range: "10m" };
  const text = expr.replace(
    /\$([a-z_]\w*)/g,
    (found, name: string) => own[name as keyof typeof own] ?? found,
  );
  assert.doesNotMatch(text, /\$[a-z_]/, `a variable that the dashboard does not have: ${expr}`);
  return text;
}

/** Values of a dashboard's variables, as Grafana asks for them: the first, or of one that takes several all of them. */
async function chosen(prometheus: TestPrometheus, name: string): Promise<Record<string, string>> {
  const values: Record<string, string> = {};
  for (const { name: variable, type, query, multi } of readDashboard(name).templating.list) {
    if (type !== "query") continue;
    const { series, label } = labelValues(query);
    const found = await prometheus.labelValues(label, filled(series, values));
    assert.ok(found.length > 0, `${name}: $${variable} has no value`);
    values[variable] = multi ? `(${found.join("|")})` : found[0]!;
  }
  return values;
}

const isNumber = ({ value }: Sample) => !Number.isNaN(value);

test("dashboards: every query runs against a real Prometheus over a job with a fault, and finds what it shows", {
  timeout: 600_000,
  skip: prometheusMissing("prometheus"),
}, async (t) => {
  const credentials = makeCredentials(mkdtempSync(path.join(tmpdir(), "goku-dashboards-")));
  const { file } = credentials;
  const cluster = await TestCluster.start({
    nodes: 2,
    agentArgs: ["--peak-tflops", String(PEAK_TFLOPS)],
    ...credentialsOf(credentials),
  });
  const exporter = new DcgmExporter("node-a", "node-b");
  let prometheus: TestPrometheus | null = null;
  try {
    const others = [await exporter.listen()];
    const folder = path.join(cluster.folder, "prometheus");
    const server = await TestPrometheus.start(folder, SHIPPED, cluster.local.rest, {
      others,
      credentials,
    });
    prometheus = server;
    const job = await testJob(cluster.folder, ["train.steps=20000", "checkpoint.every_steps=20"]);
    await cluster.submit(job);
    await cluster.replicated(30);
    // It looks for its targets for seconds; marks want to know what was before the fault.
    await until(async () => (await server.query("goku_train_step > 0")).length > 0);
    // With the other agent stopped the recovery waits, until Prometheus has seen it: else it may be over between two scrapes.
    const node = await cluster.nodeOf(2);
    const [pid] = await cluster.pidsOn(node);
    const other = cluster.local.pid(node === "node-a" ? "node-b" : "node-a");
    process.kill(other, "SIGSTOP");
    try {
      process.kill(pid!, "SIGKILL");
      await until(async () => (await server.query("goku_incidents_open > 0")).length > 0);
    } finally {
      process.kill(other, "SIGCONT");
    }
    const last = Math.max(...cluster.record.losses.keys());
    await cluster.follow(({ losses }) => losses.has(last + 30));
    await until(async () => (await server.query("goku_incidents_total")).length > 0);

    const values = new Map<string, Record<string, string>>();
    for (const name of Object.keys(DASHBOARDS)) values.set(name, await chosen(server, name));
    assert.deepEqual(values.get("goku-job"), { cluster: "goku", job: job.name, node: "(node-a|node-b)" });
    const all = [...values].flatMap(([name, own]) =>
      queriesOf(readDashboard(name)).map((asked) => ({ ...asked, query: filled(asked.expr, own) })),
    );
    const ask = ({ query, instant }: Asked & { query: string }) =>
      instant ? server.query(query) : server.queryRange(query);
    const isGpu = ({ expr }: Asked) => expr.includes("DCGM_");

    await t.test("without a DCGM exporter its panels are empty, without an error", async () => {
      const asked = all.filter(isGpu);
      assert.equal(asked.length, 10);
      for (const one of asked) assert.deepEqual(await ask(one), [], one.where);
    });

    exporter.isThere = true;
    await t.test("every query answers, and finds something", async () => {
      // Rules are evaluated each second, slowness is told every 15 s.
      let empty: string[] = [];
      await until(async () => {
        empty = [];
        for (const one of all) if (!(await ask(one)).some(isNumber)) empty.push(one.where);
        return empty.length === 0;
      }).catch(() => {}); // told by what follows, with names
      assert.deepEqual(empty, []);
    });

    await t.test("series have the labels that they are named by", async () => {
      for (const one of all)
        for (const { metric } of await ask(one))
          for (const [, label] of one.legend.matchAll(/\{\{(\w+)\}\}/g))
            assert.ok(metric[label!] !== undefined, `${one.where}: no label ${label}`);
    });

    await t.test("figures are those of the run", async () => {
      const read = async (title: string) =>
        (await ask(all.find(({ where }) => where.endsWith(`: ${title} A`))!)).filter(isNumber);
      assert.deepEqual(
        (await read("Phase")).map(({ metric }) => metric.phase),
        ["RUNNING"],
      );
      assert.deepEqual(
        (await read("Steps planned")).map(({ value }) => value),
        [20_000],
      );
      // Each has happened once, and its series began with it.
      for (const [title, counter, label] of [
        ["Incidents by class", "goku_incidents_total", "code"],
        ["Recoveries by rung", "goku_recovery_seconds_count", "rung"],
        ["Detections by source", "goku_detections_total", "source"],
      ] as const) {
        const told = (samples: Sample[]) =>
          samples.map(({ metric, value }) => `${metric[label]} ${Math.round(value)}`).sort();
        const counted = told(await server.query(counter));
        assert.ok(counted.length > 0, counter);
        assert.deepEqual(told(await read(title)), counted, title);
      }
      const codes = (await read("Incidents by class")).map(({ metric }) => metric.code);
      assert.ok(codes.includes("RANK_DIED"), codes.join());
      const [mean] = await read("Seconds of a recovery, mean by rung");
      assert.ok(mean!.value > 0 && mean!.value < 200, `${mean!.value} s`);
      const ranks = (await read("Slowness by node and rank")).map(({ metric }) => metric.rank);
      assert.deepEqual(ranks.sort(), ["0", "1", "2", "3"]);
      const sections = (await read("Step time by section")).reduce((sum, { value }) => sum + value, 0);
      const [step] = await read("Step time");
      assert.ok(
        Math.abs(sections / step!.value - 1) < 0.2,
        `sections ${sections} s of a step of ${step!.value} s`,
      );
      const [mfu] = await read("Model FLOPs utilisation");
      const [work] = await read("Work");
      const ratio = work!.value / (4 * PEAK_TFLOPS * 1e12);
      assert.ok(mfu!.value > 0 && mfu!.value < 1, `utilisation ${mfu!.value}`);
      assert.ok(Math.abs(mfu!.value / ratio - 1) < 0.5, `utilisation ${mfu!.value}, by the work ${ratio}`);
      const [left] = await read("Certificate expires in");
      const expiry = Date.parse(new X509Certificate(readFileSync(file("controller.crt"))).validTo) / 1000;
      const days = (expiry - Date.now() / 1000) / 86400;
      assert.ok(Math.abs(left!.value / 86400 - days) < 1, `${left!.value} s, want ${days} days`);
      assert.ok((await read("Age of a node's snapshots")).every(({ value }) => value >= 0 && value < 600));
      const controllers = (await read("Memory")).map(({ metric }) => metric.instance);
      assert.deepEqual(
        controllers,
        [new URL(cluster.local.rest).host],
        "agents are not shown as controllers",
      );
      for (const one of all.filter(isGpu)) {
        const nodes = (await ask(one)).map(({ metric }) => metric.node).sort();
        assert.deepEqual(nodes, ["node-a", "node-b"], one.where);
      }
    });
    await cluster.client.call("stopJob", { name: job.name });
    await cluster.follow();
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${cluster.logs}`, { cause: error });
  } finally {
    await prometheus?.stop();
    exporter.close();
    await cluster.stop();
    rmSync(credentials.folder, { recursive: true });
  }
});
