import assert from "node:assert/strict";
import { test } from "node:test";
import { heatMap } from "../../cli/heat_map.js";
import { JobStatus } from "../../gen/goku/v1/controller.pb.js";
import { Random } from "../sim/random.js";

const SIZE = { columns: 100, rows: 10 };

/** Nodes of `slots` ranks each, with the slowness of every rank. */
function field(slots: number, slowness: number[], slow: { nodeId: string; rank?: number }[] = []): JobStatus {
  const rankNodes = slowness.map((_, rank) => `node-${String(Math.floor(rank / slots)).padStart(3, "0")}`);
  return JobStatus.fromPartial({ rankNodes, rankSlowness: slowness, stragglers: slow });
}

test("four ranks are numbers by node, the slow ones marked", () => {
  const job = field(2, [1, 1.02, 1.834, 0], [{ nodeId: "node-001", rank: 2 }]);
  assert.deepEqual(heatMap(job, SIZE), [
    "slowness  slowest 1.83: rank 2 on node-001",
    "  node-000  0: 1.00  1: 1.02",
    "  node-001  2: 1.83* 3: ·",
  ]);
  const whole = field(2, [1, 1.02, 1.8, 1.9], [{ nodeId: "node-001" }]);
  assert.equal(heatMap(whole, SIZE)[2], "  node-001  2: 1.80* 3: 1.90*");
});

test("512 ranks are shades, as many nodes in a row as fit, and the slow one stands out", () => {
  const random = new Random(3);
  const slowness = Array.from({ length: 512 }, () => 0.98 + 0.04 * random.unit());
  slowness[200] = 1.6;
  slowness[201] = 1.2;
  const lines = heatMap(field(8, slowness), SIZE);
  assert.equal(lines.length, 1 + 8);
  assert.match(lines[0]!, /^slowness {2}slowest 1\.60: rank 200 on node-025 .*not known$/);
  assert.equal(lines[1], `  node-000  ${Array(9).fill("░░░░░░░░").join(" ")}`);
  assert.match(lines.join("\n"), /█▓░░░░░░/);
  assert.ok(lines.every((line) => line.length <= SIZE.columns));
});

test("12,288 ranks are one shade for each node, and only the rows with the slowest where that is too much", () => {
  const slowness = Array.from({ length: 12_288 }, (_, rank) => (rank === 9_000 ? 2 : 1));
  const lines = heatMap(field(8, slowness), { columns: 100, rows: 20 });
  assert.equal(lines.length, 1 + 18);
  assert.equal(
    lines.filter((line) => line.includes("█")).length,
    2,
    "the legend, and the row of the slow one",
  );
  const few = heatMap(field(8, slowness), { columns: 100, rows: 5 });
  assert.equal(few.length, 1 + 5);
  assert.ok(few.some((line) => /^ {2}node-\d+ .*█/.test(line)));
  assert.equal(few.at(-1), "  and 14 rows more, none above 1.00");
});

test("nothing is known: no lines", () => {
  assert.deepEqual(heatMap(field(2, []), SIZE), []);
  assert.deepEqual(heatMap(field(2, [0, 0]), SIZE), []);
});

test("a narrow terminal cuts lines rather than wrapping them", () => {
  const lines = heatMap(field(8, Array(64).fill(1)), { columns: 30, rows: 40 });
  assert.ok(lines.every((line) => line.length <= 30));
  assert.equal(lines.length, 1 + 4, "two nodes in a row");
});
