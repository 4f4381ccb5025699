import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { CONTROLLER_METRICS, type MetricEntry, NODE_METRICS } from "../../job/metrics.js";
import { metricsPage } from "../../scripts/metrics_page.js";
import { REPOSITORY } from "./repository.js";

const all: [string, MetricEntry][] = [...Object.entries(CONTROLLER_METRICS), ...Object.entries(NODE_METRICS)];

test("docs/metrics.md is what the catalogue makes it; else run node dist/scripts/metrics_page.js", () => {
  assert.equal(readFileSync(path.join(REPOSITORY, "docs/metrics.md"), "utf8"), metricsPage());
});

test("names follow the conventions: goku_, _total for counters alone, the unit at the end", () => {
  assert.equal(new Set(all.map(([name]) => name)).size, all.length, "no name is in both catalogues");
  for (const [name, { type, unit, buckets }] of all) {
    assert.match(name, /^goku_[a-z0-9]+(_[a-z0-9]+)*$/);
    assert.equal(name.endsWith("_total"), type === "counter", name);
    const bare = name.replace(/_total$/, "");
    if (unit === "timestamp") assert.match(bare, /_timestamp_seconds$/);
    if (["seconds", "bytes", "ratio", "celsius", "hertz", "watts"].includes(unit))
      assert.ok(bare.endsWith(`_${unit}`), name);
    assert.equal(buckets !== undefined, type === "histogram", name);
    assert.ok(
      [...(buckets ?? [])].every((bound, i, bounds) => i === 0 || bound > bounds[i - 1]!),
      name,
    );
  }
});

test("only an agent shows series of a rank: a controller's do not grow with the cluster", () => {
  for (const [name, { labels }] of Object.entries<MetricEntry>(CONTROLLER_METRICS))
    for (const label of ["rank", "node", "pid"]) assert.ok(!(label in labels), `${name}{${label}}`);
});
