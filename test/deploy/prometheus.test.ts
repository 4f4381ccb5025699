import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { CONTROLLER_METRICS, type MetricEntry, NODE_METRICS } from "../../job/metrics.js";
import { gokuctl } from "../support/gokuctl.js";
import { prometheusMissing } from "../support/prometheus.js";

const SHIPPED = path.resolve(import.meta.dirname, "../../../deploy/prometheus");
const RULES = ["recording.yml", "alerts.yml"];

interface Rule {
  alert?: string;
  record?: string;
  expr: string;
  labels?: { severity: string };
  annotations?: { summary: string; description: string };
}

function read(name: string) {
  return parse(readFileSync(path.join(SHIPPED, name), "utf8"));
}
function rulesOf(name: string): Rule[] {
  return read(name).groups.flatMap(({ rules }: { rules: Rule[] }) => rules);
}

/** Runs a program in the folder of the rules; what it says stands in the message of a failure. */
function check(program: string, ...args: string[]): void {
  execFileSync(program, args, { cwd: SHIPPED, stdio: "pipe" });
}

test("Prometheus's own tool takes the rules and the configuration, and every case of the rules holds", {
  skip: prometheusMissing("promtool"),
}, () => {
  check("promtool", "check", "config", "prometheus.yml");
  check("promtool", "check", "rules", ...RULES);
  check("promtool", "test", "rules", "rules_test.yml");
});

test("Alertmanager's own tool takes the example", { skip: prometheusMissing("amtool") }, () => {
  check("amtool", "check-config", "alertmanager.yml");
});

test("every alert has a case in which it fires and one in which it does not, every record one that says its value", () => {
  const { tests } = read("rules_test.yml") as {
    tests: {
      alert_rule_test?: { alertname: string; exp_alerts?: unknown[] }[];
      promql_expr_test?: { expr: string }[];
    }[];
  };
  const cases = tests.flatMap(({ alert_rule_test = [] }) => alert_rule_test);
  const expressions = tests.flatMap(({ promql_expr_test = [] }) => promql_expr_test.map(({ expr }) => expr));
  for (const { alert } of rulesOf("alerts.yml")) {
    const own = cases.filter(({ alertname }) => alertname === alert);
    assert.ok(
      own.some(({ exp_alerts }) => exp_alerts?.length),
      `${alert} never fires`,
    );
    assert.ok(
      own.some(({ exp_alerts }) => !exp_alerts),
      `${alert} always fires`,
    );
  }
  for (const { record } of rulesOf("recording.yml"))
    assert.ok(
      expressions.some((expr) => expr.includes(record!)),
      `${record} is not looked at`,
    );
});

test("rules use metrics of the catalogue, what is recorded, and labels that they have", () => {
  const catalogue: Record<string, MetricEntry> = { ...CONTROLLER_METRICS, ...NODE_METRICS };
  const recorded = new Set(rulesOf("recording.yml").map(({ record }) => record!));
  for (const { alert, record, expr } of RULES.flatMap(rulesOf)) {
    const where = alert ?? record;
    for (const [name] of expr.matchAll(/[a-z_]+:[a-z_:0-9]+/g))
      assert.ok(recorded.has(name), `${where}: ${name}`);
    const plain = expr.replace(/[a-z_]+:[a-z_:0-9]+/g, "");
    for (const [, found, , matchers = ""] of plain.matchAll(/\b(goku_\w+)(\{([^}]*)\})?/g)) {
      const name = found!.replace(/_(bucket|sum|count)$/, (end) => (catalogue[found!] ? end : ""));
      const entry = catalogue[name];
      assert.ok(entry, `${where}: no metric ${found}`);
      for (const [, label] of matchers.matchAll(/(\w+)\s*[=!]/g))
        assert.ok(label! in entry.labels || label === "cluster", `${where}: ${name} has no label ${label}`);
    }
  }
});

test("alerts say what to do, by commands and pages that there are", async () => {
  const { stdout: known } = await gokuctl(["--help"]);
  for (const { alert, labels, annotations } of rulesOf("alerts.yml")) {
    assert.ok(["critical", "warning"].includes(labels!.severity), alert);
    const { summary, description } = annotations!;
    assert.ok(summary.length > 20 && description.length > 20, alert);
    for (const [, command] of `${summary} ${description}`.matchAll(/gokuctl (\w+)/g))
      assert.match(known, new RegExp(`^  ${command}\\b`, "m"), `${alert}: gokuctl ${command}`);
    for (const [page] of description.matchAll(/docs\/[\w-]+\.md/g))
      assert.ok(readFileSync(path.join(SHIPPED, "../..", page)).length > 0, `${alert}: ${page}`);
  }
});

test("docs/operations.md says of every alert what it means and what to do, and of no other", () => {
  const page = readFileSync(path.join(SHIPPED, "../../docs/operations.md"), "utf8");
  const chapter = page.split("\n## What each alert means\n")[1]!;
  const parts = chapter.split(/^### /m).slice(1);
  const told = parts.flatMap((part) => {
    const [heading, ...text] = part.split("\n");
    assert.ok(text.join(" ").length > 40, `${heading}: nothing is said`);
    return heading!.split(", ");
  });
  assert.deepEqual(
    told.sort(),
    rulesOf("alerts.yml")
      .flatMap(({ alert }) => alert ?? [])
      .sort(),
  );
});
